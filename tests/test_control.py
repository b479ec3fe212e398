"""Words to include and exclude, n-grams that never come twice, diversity and draws.

Each is compared with all captions that a tiny vocabulary has, or with a plain loop.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from captioner.control import Control, control_of
from captioner.control_search import control_search
from captioner.engines.interface import Attributes, Candidates
from captioner.errors import CaptionerError, OptionError
from captioner.features import Features
from captioner.sampling import sample
from captioner.search import Hypothesis, search
from captioner.search_config import SearchConfig
from captioner.strategies import captions_of
from captioner.sure_attributes import LARGEST_LOSS
from captioner.vocabulary import END, PAD, SPECIAL_TOKENS, START, UNKNOWN, Vocabulary

A, B, C, D = 4, 5, 6, 7
WORDS = (A, B, C, D)
SIZE = 8
POSITIONS = 2


@cache
def log_probs_after(image: int, prefix: tuple[int, ...]) -> np.ndarray:
    """What a model of random numbers gives to the word after a prefix."""
    draws = np.random.default_rng([image, *prefix])
    logits = 2 * draws.standard_normal(SIZE)
    logits[[PAD, START, UNKNOWN]] = -np.inf
    return np.asarray(logits - np.log(np.exp(logits).sum()))


class TableDecoding:
    """A decoding of images, given by their numbers, with that model."""

    attributes = None

    def __init__(self, images: Sequence[int]) -> None:
        self.images = list(images)
        self.prefixes: list[list[tuple[int, ...]]] = [[()] for _ in images]

    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        assert words.shape == parents.shape
        self.prefixes = [
            [
                (*before[parent], word) if word != START else ()
                for word, parent in zip(*new, strict=True)
            ]
            for before, *new in zip(self.prefixes, words.tolist(), parents.tolist(), strict=True)
        ]
        table = np.array(
            [
                [log_probs_after(image, prefix) for prefix in prefixes]
                for image, prefixes in zip(self.images, self.prefixes, strict=True)
            ],
            np.float32,
        )
        order = np.argsort(-table, axis=2, kind="stable")[..., :count]
        asked = np.stack([of_one[:, ids] for of_one, ids in zip(table, wanted, strict=True)])
        looked = np.array(
            [[[len(prefix), 1.0] for prefix in prefixes] for prefixes in self.prefixes], np.float32
        )
        return Candidates(np.take_along_axis(table, order, 2), order, asked, looked)

    def keep(self, images: np.ndarray) -> None:
        assert (np.diff(images) > 0).all()
        self.images = [self.images[one] for one in images]
        self.prefixes = [self.prefixes[one] for one in images]


ONCE = Control(is_once=np.isin(np.arange(SIZE), (A, C)))


def is_once(control: Control, word: int) -> bool:
    return control.is_once is not None and bool(control.is_once[word])


def log_prob(image: int, words: Sequence[int]) -> float:
    return float(
        sum(log_probs_after(image, tuple(words[:place]))[word] for place, word in enumerate(words))
    )


def all_captions(image: int, config: SearchConfig, control: Control) -> list[tuple[float, Any]]:
    """Every caption that meets the demands with its score, the best first."""
    found = []
    for length in range(1, config.max_length + 1):
        for words in itertools.product(WORDS, repeat=length):
            size = control.no_repeat_ngram
            grams = [words[at : at + size] for at in range(length - size + 1)] if size else []
            if (
                not set(control.include) <= set(words)
                or set(control.exclude) & set(words)
                or len(set(grams)) < len(grams)
                or any(is_once(control, word) and words.count(word) > 1 for word in words)
            ):
                continue
            caption = words if length == config.max_length else (*words, END)  # cut, or ended
            found.append((log_prob(image, caption) / len(caption) ** config.length_power, words))
    return sorted(found, reverse=True)


def check(image: int, found: list[Hypothesis], expected: list[tuple[float, Any]]) -> None:
    assert [one.words for one in found] == [words for _, words in expected[: len(found)]]
    for one, (score, _) in zip(found, expected, strict=False):
        assert one.score == pytest.approx(score, abs=1e-5)
        ended = log_prob(image, (*one.words, END))
        assert one.log_prob == pytest.approx(ended, abs=1e-5) or one.log_prob == pytest.approx(
            log_prob(image, one.words), abs=1e-5
        )
        check_tokens(image, one)
        assert one.attention is not None
        assert one.attention.tolist() == [[place, 1] for place in range(len(one.words))]


def check_tokens(image: int, found: Hypothesis) -> None:
    """Every word, and the end if it has one, carries its own log-probability."""
    ended = (*found.words, END)[: len(found.token_log_probs)]
    assert len(found.words) <= len(ended)
    expected = [log_probs_after(image, ended[:at])[word] for at, word in enumerate(ended)]
    assert found.token_log_probs == pytest.approx(expected, abs=1e-5)
    assert sum(found.token_log_probs) == pytest.approx(found.log_prob, abs=1e-5)


def a_config(**options: Any) -> SearchConfig:
    return SearchConfig.for_captions(**{"max_length": 4, **options})


@pytest.mark.parametrize("image", range(3))
@pytest.mark.parametrize("include", [(A,), (B, D), (A, C, D), (A, B, C, D)])
def test_a_wide_beam_finds_the_best_captions_with_the_words(
    image: int, include: tuple[int, ...]
) -> None:
    config, control = a_config(num_captions=5, beam_size=400), Control(include)
    [found] = control_search(TableDecoding([image]), [config], [control])
    check(image, found, all_captions(image, config, control))
    assert len(found) == 5


@pytest.mark.parametrize("beam_size", [1, 2, 3])
def test_a_narrow_beam_holds_the_words_too(beam_size: int) -> None:
    config = a_config(beam_size=beam_size, max_length=6)
    controls = [Control((A, D), (B,)), Control((C,)), Control((D, B), (), 2), None]
    found = control_search(TableDecoding([1, 2, 3, 4]), [config] * 4, controls)
    words = [one.words for [one] in found]
    for image, [one] in zip((1, 2, 3, 4), found, strict=True):
        check_tokens(image, one)
    assert {A, D} <= set(words[0])
    assert B not in words[0]
    assert C in words[1]
    assert {D, B} <= set(words[2])
    assert len(set(itertools.pairwise(words[2]))) == len(words[2]) - 1
    assert found[3][0].words == search(TableDecoding([4]), [config])[0][0].words


def test_without_demands_it_is_the_beam_search() -> None:
    configs = [
        a_config(
            num_captions=number % 3 + 1,
            beam_size=number % 3 + 1 + number % 2,
            max_length=number % 5 + 1,
        )
        for number in range(12)
    ]
    plain = search(TableDecoding(range(12)), configs)
    found = control_search(TableDecoding(range(12)), configs, [None] * 12)
    for own, theirs in zip(plain, found, strict=True):
        assert [(one.words, one.log_prob, one.score) for one in own] == [
            (one.words, one.log_prob, one.score) for one in theirs
        ]


@pytest.mark.parametrize("image", range(3))
@pytest.mark.parametrize(
    "control", [Control((), (A, C)), Control((), (), 1), Control((), (B,), 2), ONCE], ids=str
)
def test_vetoes_leave_the_best_of_the_other_captions(image: int, control: Control) -> None:
    config = a_config(num_captions=4, beam_size=400)
    [found] = search(TableDecoding([image]), [config], [control])
    check(image, found, all_captions(image, config, control))


def test_a_narrow_beam_sees_enough_candidates_for_its_vetoes() -> None:
    control = Control((), (A, B, C))
    for image in range(8):
        [[found]] = search(TableDecoding([image]), [a_config(beam_size=1)], [control])
        assert set(found.words) == {D}
        [[found]] = search(TableDecoding([image]), [a_config(beam_size=1)], [Control((), (), 1)])
        assert len(set(found.words)) == len(found.words)
    every = Control(is_once=np.ones(SIZE, bool))
    for image in range(8):
        [[found]] = search(TableDecoding([image]), [a_config(beam_size=1)], [every])
        assert len(set(found.words)) == len(found.words)


def test_words_of_content_come_once_beside_those_to_include() -> None:
    control = Control((B, A), is_once=np.isin(np.arange(SIZE), (A, B)))
    config = a_config(num_captions=5, beam_size=400)
    for image in range(3):
        [found] = control_search(TableDecoding([image]), [config], [control])
        check(image, found, all_captions(image, config, control))


def test_demands_that_no_caption_meets_are_an_error() -> None:
    with pytest.raises(CaptionerError, match="no word a probability"):
        control_search(TableDecoding([0]), [a_config()], [Control((), WORDS)])
    with pytest.raises(CaptionerError, match="no word a probability"):
        sample(TableDecoding([0]), [a_config(sample=True)], [Control((), WORDS)])


def greedy_groups(image: int, config: SearchConfig) -> list[tuple[int, ...]]:
    """Groups of one caption each, chosen one after the other at each step."""
    captions: list[tuple[int, ...]] = [() for _ in range(config.diverse_groups)]
    over = [False] * config.diverse_groups
    for step in range(config.max_length):
        chosen: Counter[int] = Counter()
        for group, prefix in enumerate(captions):
            if over[group]:
                continue
            values = log_probs_after(image, prefix).copy()
            if step == 0:
                values[END] = -np.inf
            for word, times in chosen.items():
                values[word] -= config.diversity * times
            best = int(values.argmax())
            if best == END:
                over[group] = True
            else:
                captions[group] = (*prefix, best)
                chosen[best] += 1
    return captions


@pytest.mark.parametrize("diversity", [0.3, 1.0, 5.0])
def test_groups_of_one_are_greedy_searches_that_avoid_each_other(diversity: float) -> None:
    config = a_config(num_captions=3, diverse_groups=3, diversity=diversity)
    assert config.beam_size == 3
    met = 0
    for image in range(6):
        [found] = control_search(TableDecoding([image]), [config], [None])
        expected = greedy_groups(image, config)
        if len(set(expected)) == 3:
            met += 1
            assert {one.words for one in found} == set(expected)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        if diversity == 5.0:
            assert len({one.words[0] for one in found}) == 3
    assert met >= 2


Found = tuple[float, float, tuple[int, ...]]  # rank in its group, score, words


def naive_groups(image: int, config: SearchConfig) -> list[Found]:
    """Groups of any width, in plain loops over all words; the captions to return."""
    width = config.beam_size // config.diverse_groups
    live: list[list[Found]] = [[(0.0, 0.0, ())] for _ in range(config.diverse_groups)]
    pools: list[list[Found]] = [[] for _ in live]
    for step in range(config.max_length):
        chosen: Counter[int] = Counter()
        divisor = (step + 1) ** config.length_power
        for group, pool in enumerate(pools):
            theirs = {words for other in pools[:group] for _, _, words in other}
            options = sorted(
                (-(ranked + after - config.diversity * chosen[word]), -(total + after), words, word)
                for ranked, total, words in live[group]
                for word, after in enumerate(log_probs_after(image, words))
                if after > -math.inf and not (word == END and step == 0)
            )
            ended = [one for one in options[:width] if one[3] == END and one[2] not in theirs]
            new = [
                (-ranked / divisor, -total / divisor, words) for ranked, total, words, _ in ended
            ]
            going = [
                (-ranked, -total, (*words, word))
                for ranked, total, words, word in options
                if word != END
            ]
            is_last = step + 1 == config.max_length
            going = [one for one in going if not (is_last and one[2] in theirs)][:width]
            pool[:] = sorted([*pool, *new], key=lambda one: -one[0])[:width]
            needed = min(config.num_captions, width)
            bound = going[0][0] / config.max_length**config.length_power if going else -math.inf
            is_done = len(pool) == width or (len(pool) >= needed and pool[needed - 1][0] >= bound)
            live[group] = [] if is_done else going
            chosen.update(words[-1] for _, _, words in live[group])
            if is_last:
                cut = [(ranked / divisor, total / divisor, words) for ranked, total, words in going]
                pool[:] = sorted([*pool, *cut], key=lambda one: -one[0])[:width]
    by_place = sorted(
        ((place, -score, words) for pool in pools for place, (_, score, words) in enumerate(pool)),
    )
    best = sorted(by_place[: config.num_captions], key=lambda one: one[1])
    return [(0.0, -score, words) for _, score, words in best]


@pytest.mark.parametrize("diversity", [0.0, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("max_length", [1, 2, 4, 7])
def test_groups_find_as_many_different_captions_as_are_asked_for(
    diversity: float, max_length: int
) -> None:
    options = {"diversity": diversity, "max_length": max_length}
    for image in range(8):
        for groups, width in [(3, 1), (4, 1), (2, 2), (2, 3), (3, 2)]:
            beams = groups * width
            for number in {1, groups, beams} if max_length > 1 else {1, 4}:
                if number > beams:
                    continue
                config = a_config(
                    num_captions=number, beam_size=beams, diverse_groups=groups, **options
                )
                [found] = control_search(TableDecoding([image]), [config], [None])
                assert len({one.words for one in found}) == number
                expected = naive_groups(image, config)
                assert [one.words for one in found] == [words for _, _, words in expected]
                scores = [score for _, score, _ in expected]
                assert [one.score for one in found] == pytest.approx(scores, abs=1e-5)
                for one in found:
                    check_tokens(image, one)


@pytest.mark.parametrize("include", [(A,), (B, D)])
def test_groups_find_different_captions_with_words_to_include(include: tuple[int, ...]) -> None:
    for image in range(8):
        for groups in (2, 3):
            config = a_config(num_captions=6, beam_size=6, diverse_groups=groups, diversity=0.1)
            [found] = control_search(TableDecoding([image]), [config], [Control(include)])
            assert len({one.words for one in found}) == 6
            assert all(set(include) <= set(one.words) for one in found)


def test_the_first_of_each_group_come_before_the_second_of_any() -> None:
    config = a_config(num_captions=2, beam_size=4, diverse_groups=2, diversity=50.0)
    for image in range(6):
        [found] = control_search(TableDecoding([image]), [config], [None])
        assert len({one.words[0] for one in found}) == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 2},
        {"top_p": 0.6},
        {"top_k": 3, "top_p": 0.8, "temperature": 1.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("control", [None, Control((), (B,), 1)], ids=str)
def test_draws_follow_the_probabilities(options: dict[str, Any], control: Control | None) -> None:
    draws = 4000
    config = a_config(
        sample=True, num_captions=draws, beam_size=draws, max_length=2, seed=1, **options
    )
    [found] = sample(TableDecoding([5]), [config], [control])
    counted = Counter(one.words for one in found)
    total = 0.0
    for first in WORDS:
        p = drawn_by(5, (), config, control).get(first, 0.0)
        after = drawn_by(5, (first,), config, control) if p else {}
        for words, chance in [
            ((first,), p * after.get(END, 0.0)),
            *(((first, second), p * after.get(second, 0.0)) for second in WORDS),
        ]:
            total += chance
            share = counted[words] / draws
            assert share == pytest.approx(chance, abs=4.5 * (chance * (1 - chance) / draws) ** 0.5)
    assert total == pytest.approx(1)
    for one in found[:50]:
        ended = (*one.words, END) if len(one.words) < 2 else one.words
        assert one.log_prob == pytest.approx(log_prob(5, ended), abs=1e-5)
        check_tokens(5, one)
        assert one.score == pytest.approx(one.log_prob / len(ended) ** 0.7, abs=1e-5)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@pytest.mark.parametrize("temperature", [1e-5, 1e-308, 5e-324])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.6}], ids=str)
def test_near_zero_temperatures_draw_the_most_probable_words(
    temperature: float, options: dict[str, Any]
) -> None:
    options = {"num_captions": 20, "beam_size": 20, "max_length": 3, "seed": 1, **options}
    config = a_config(sample=True, temperature=temperature, **options)
    for image in range(6):
        best: tuple[int, ...] = ()
        while len(best) < 3 and END not in best:
            after = log_probs_after(image, best)
            best += (max((*WORDS, END) if best else WORDS, key=after.__getitem__),)
        [found] = sample(TableDecoding([image]), [config], [None])
        assert {one.words for one in found} == {tuple(word for word in best if word != END)}


def drawn_by(
    image: int, prefix: tuple[int, ...], config: SearchConfig, control: Control | None
) -> dict[int, float]:
    """The probabilities of the next word, by their definition."""
    weights = {
        word: math.exp(log_probs_after(image, prefix)[word] / config.temperature)
        for word in (END, *WORDS)
        if (prefix or word != END) and not (control and (word in control.exclude or word in prefix))
    }
    best = sorted(weights, key=lambda word: -weights[word])[: config.top_k or None]
    total = sum(weights[word] for word in best)
    kept, reached = [], 0.0
    for word in best:
        kept.append(word)
        reached += weights[word] / total
        if reached >= config.top_p:
            break
    total = sum(weights[word] for word in kept)
    return {word: weights[word] / total for word in kept}


def test_a_seed_draws_the_same_in_any_batch() -> None:
    configs = [
        a_config(sample=True, num_captions=n % 3 + 1, seed=7, max_length=n % 4 + 2)
        for n in range(6)
    ]
    together = sample(TableDecoding(range(6)), configs, [None] * 6)
    for n, config in enumerate(configs):
        [alone] = sample(TableDecoding([n]), [config], [None])
        assert [one.words for one in alone] == [one.words for one in together[n]]
    unseeded = a_config(sample=True, num_captions=9)
    first, second = (sample(TableDecoding([3]), [unseeded], [None])[0] for _ in range(2))
    assert [one.words for one in first] != [one.words for one in second]


def test_the_most_probable_word_alone_is_greedy_search() -> None:
    config = a_config(sample=True, top_k=1, max_length=6)
    for image in range(5):
        [[drawn]] = sample(TableDecoding([image]), [config], [None])
        [[greedy]] = search(TableDecoding([image]), [a_config(beam_size=1, max_length=6)])
        assert drawn.words == greedy.words


class Numbers(list[int]):
    """Stands for features: the numbers of images."""

    def select(self, images: np.ndarray) -> "Numbers":
        return Numbers(self[one] for one in images)


def test_every_image_of_a_batch_is_searched_as_it_asks() -> None:
    configs = [
        a_config(),
        a_config(sample=True, seed=3, num_captions=2),
        a_config(include=("x",)),
        a_config(),
        a_config(num_captions=2, diverse_groups=2),
    ]
    controls = [None, None, Control((D,)), Control((), (A,)), None]
    begun: list[list[int]] = []

    def begin(features: Any) -> TableDecoding:
        begun.append(list(features))
        return TableDecoding(features)

    found = captions_of(begin, Numbers(range(5)), configs, controls)  # type: ignore[arg-type]
    assert sorted(begun) == [[0, 3], [1], [2, 4]]
    alone = [
        captions_of(begin, Numbers([n]), configs[n : n + 1], controls[n : n + 1])[0]  # type: ignore[arg-type]
        for n in range(5)
    ]
    assert [[one.words for one in own] for own in found] == [
        [one.words for one in own] for own in alone
    ]


class WithAttributes(TableDecoding):
    """The same with one attribute for each image: the word A, with a probability of its own."""

    def __init__(self, features: Features) -> None:
        images = features.grid[:, 0, 0].astype(int).tolist()
        super().__init__(images)
        self.attributes = Attributes(
            np.full((len(images), 1), A), np.array([[SURE[image]] for image in images])
        )


SURE = [0.9, 0.71, 0.69, 0.7, 0.95, 0.2, 0.8, 0.99]


@pytest.mark.parametrize(
    ("num_captions", "word", "same"),
    [(1, "dog", "dogs"), (3, "dog", "dogs"), (1, "bicycle", "bikes")],
)
def test_a_sure_attribute_is_named_where_the_caption_loses_little(
    num_captions: int, word: str, same: str
) -> None:
    features = Features(grid=np.arange(len(SURE), dtype=np.float32)[:, None, None])
    vocabulary = Vocabulary((*SPECIAL_TOKENS, word, same, "cat", "runs"))
    config = a_config(num_captions=num_captions, beam_size=400, max_length=3)
    controls = [control_of(config, vocabulary)] * len(SURE)
    found = captions_of(WithAttributes, features, [config] * len(SURE), controls)
    named = captions_of(
        WithAttributes, features, [config] * len(SURE), controls, names_attributes=True
    )
    changed = 0
    for image, sure in enumerate(SURE):
        free = all_captions(image, config, Control())
        with_word = all_captions(image, config, Control((A,)))
        lacks = not {A, B} & set(free[0][1])  # B names the same
        is_named = sure >= 0.7 and lacks and with_word[0][0] >= free[0][0] - LARGEST_LOSS
        changed += is_named
        check(image, found[image], free)
        check(image, named[image], with_word if is_named else free)
        assert named[image][0].attributes == ((A, sure),)
    assert 0 < changed < sum(one >= 0.7 for one in SURE)


@pytest.mark.parametrize("options", [{"exclude": ("dog",)}, {"attribute_threshold": 1}], ids=str)
def test_an_attribute_may_be_left_out_by_wish(options: dict[str, Any]) -> None:
    features = Features(grid=np.arange(len(SURE), dtype=np.float32)[:, None, None])
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "dog", "dogs", "cat", "runs"))
    config = a_config(max_length=3, **options)
    controls = [control_of(config, vocabulary)] * len(SURE)
    free, named = (
        captions_of(
            WithAttributes, features, [config] * len(SURE), controls, names_attributes=is_asked
        )
        for is_asked in (False, True)
    )
    assert [one[0].words for one in named] == [one[0].words for one in free]


VOCABULARY = Vocabulary((*SPECIAL_TOKENS, "a", "dog", "runs", "#1"))


def test_words_become_ids_as_captions_are_written() -> None:
    config = a_config(include=("Dog", "dog,"), exclude=("RUNS!", "#1"), no_repeat_ngram=2)
    assert control_of(config, VOCABULARY) == Control((B,), (C, D), 2)
    free = control_of(a_config(), VOCABULARY)
    assert free is not None
    assert not free.vetoes
    assert control_of(a_config(attribute_threshold=1), VOCABULARY) is None


def test_what_may_come_twice_is_the_vocabularys_to_say() -> None:
    vocabulary = Vocabulary(VOCABULARY.words, repeatable=["a"])
    control = control_of(a_config(), vocabulary)
    assert control is not None
    assert control.is_once is not None
    assert control.is_once.tolist() == [False] * 5 + [True] * 3
    assert control_of(a_config(repeat_words=True, attribute_threshold=1), vocabulary) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["zebra"]}, "include holds 'zebra', which is not among the 8 words that this"),
        ({"exclude": ["a", "cat"]}, "exclude holds 'cat', which is not among the 8 words"),
        ({"include": ["<end>"]}, "include holds '<end>', which is not among"),
        ({"include": ["dog runs"]}, "include holds 'dog runs'; give single words"),
        ({"exclude": ["…"]}, "exclude holds '…'; give single words"),
        ({"include": ["a", "dog"], "exclude": ["Dog"]}, "include and exclude both hold 'dog'"),
    ],
    ids=str,
)
def test_a_word_that_the_model_lacks_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as problem:
        control_of(a_config(**options), VOCABULARY)
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "dog"}, "include is 'dog'; give a list of words"),
        ({"include": list("abcde"), "max_length": 9}, "include holds 5 words; a caption can be"),
        ({"include": ["a", "b"], "max_length": 1}, "include holds 2 words and max_length is 1"),
        ({"sample": True, "include": ["a"]}, "sample does not go with include"),
        ({"sample": True, "diverse_groups": 3}, "sample does not go with diverse_groups"),
        ({"temperature": 0.5}, "temperature is 0.5 without sample"),
        ({"seed": 0}, "seed is 0 without sample"),
        ({"sample": True, "temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"sample": True, "top_p": 1.5}, "top_p is 1.5; it must lie above 0 and be at most 1"),
        ({"beam_size": 4, "diverse_groups": 3}, "beam_size is 4 and diverse_groups 3; give a beam"),
    ],
    ids=str,
)
def test_contradictions_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as problem:
        a_config(**options)
    assert message in str(problem.value)
