"""Greedy and beam search against exhaustive enumeration and a plain search over lists."""

import itertools
import math
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.decoders import DECODERS, CaptionBatch, build_decoder, decoder_options
from captioner.engines.torch_engine import TorchDecoding
from captioner.errors import CaptionerError, OptionError
from captioner.features import Features
from captioner.search import Hypothesis
from captioner.search import search as search_batch
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, PAD, START, UNKNOWN
from tests.decoders.attribute_words import give_attributes

FORBIDDEN = (PAD, START, UNKNOWN)
POSITIONS = 5
TABLE_ROWS = 4099  # a prime, so that prefixes rarely share a row


class TableState(NamedTuple):
    """The number of the prefix read so far stands in h; c is carried along and must follow it."""

    h: Tensor
    c: Tensor


class TableMemory(NamedTuple):
    features: Tensor


class TableStep(NamedTuple):
    logits: Tensor
    state: TableState
    attention: Tensor | None


class TableDecoder:
    """A decoder whose logits are random numbers that depend on the image and the whole prefix."""

    def __init__(self, words: int, seed: int, *, spread: float = 2.0, end: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary_size = 4 + words
        self.table = spread * torch.randn(TABLE_ROWS, self.vocabulary_size, generator=generator)
        self.table[:, END] += end
        self.looks = torch.rand(TABLE_ROWS, POSITIONS, generator=generator)
        self.rows_computed: list[tuple[int, int]] = []

    def prepare(self, features: Features) -> TableMemory:
        return TableMemory(features.grid)

    def start(self, memory: TableMemory) -> TableState:
        start = torch.zeros(len(memory.features), 1, 1, dtype=torch.float64)
        return TableState(start, start.clone())

    def attributes(self, memory: TableMemory) -> None: ...

    def step(self, words: Tensor, state: TableState, memory: TableMemory) -> TableStep:
        assert torch.equal(state.h, state.c)
        self.rows_computed.append(tuple(words.shape))
        code = (state.h[..., 0].long() * 31 + words + 1) % 1_000_003
        row = (code + 977 * memory.features[:, 0, :1].long()) % TABLE_ROWS
        h = code.double().unsqueeze(2)
        return TableStep(self.table[row], TableState(h, h.clone()), self.looks[row])


class ConstantDecoder(TableDecoder):
    """The same logits at every step of every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__(len(logits) - 4, seed=0)
        self.table[:] = torch.tensor(logits)


def search(
    decoder: TableDecoder, features: Features, config: SearchConfig | list[SearchConfig]
) -> list[list[Hypothesis]]:
    """The search with a decoder of PyTorch."""
    configs = [config] * len(features) if isinstance(config, SearchConfig) else config
    with torch.no_grad():
        return search_batch(TorchDecoding(decoder, features), configs)


def images(*numbers: int) -> Features:
    return Features(torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1))


def log_probs_after(decoder: TableDecoder, image: int, prefix: tuple[int, ...]) -> list[float]:
    """The decoder asked about one prefix alone, with what is never written taken away."""
    values = answer_after(decoder, image, prefix).logits[0, 0].double().log_softmax(0)
    values[list(FORBIDDEN)] = -math.inf
    if not prefix:
        values[END] = -math.inf
    return values.tolist()


@cache
def answer_after(decoder: TableDecoder, image: int, prefix: tuple[int, ...]) -> TableStep:
    memory = decoder.prepare(images(image))
    if not prefix:
        return decoder.step(torch.tensor([[START]]), decoder.start(memory), memory)
    before = answer_after(decoder, image, prefix[:-1])
    return decoder.step(torch.tensor([[prefix[-1]]]), before.state, memory)


def every_caption(decoder: TableDecoder, image: int, config: SearchConfig) -> list[Hypothesis]:
    """All captions there are, ranked: those that end, and those cut at the greatest length."""
    found = []
    ordinary = range(4, decoder.vocabulary_size)
    for length in range(1, config.max_length + 1):
        for words in itertools.product(ordinary, repeat=length):
            total = sum(
                log_probs_after(decoder, image, words[:place])[word]
                for place, word in enumerate(words)
            )
            tokens = length
            if length < config.max_length:
                total += log_probs_after(decoder, image, words)[END]
                tokens += 1
            found.append(Hypothesis(words, total, total / tokens**config.length_power, None, ()))
    return sorted(found, key=lambda one: -one.score)


def plain_beam(decoder: TableDecoder, image: int, config: SearchConfig) -> list[Hypothesis]:
    """The definition of the search, one image, lists of hypotheses, no early stop by a bound."""

    def ranked(words: tuple[int, ...], log_prob: float, tokens: int) -> Hypothesis:
        return Hypothesis(words, log_prob, log_prob / tokens**config.length_power, None, ())

    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    pool: list[Hypothesis] = []
    for step in range(config.max_length):
        candidates = [
            (total + value, beam, word)
            for beam, (words, total) in enumerate(live)
            for word, value in enumerate(log_probs_after(decoder, image, words))
            if value > -math.inf
        ]
        candidates.sort(key=lambda one: (-one[0], one[1], one[2]))
        for total, beam, word in candidates[: config.beam_size]:
            if word == END:
                pool.append(ranked(live[beam][0], total, step + 1))
        going_on = [one for one in candidates if one[2] != END][: config.beam_size]
        live = [((*live[beam][0], word), total) for total, beam, word in going_on]
        if len(pool) >= config.beam_size and step + 1 < config.max_length:
            live = []
            break
    pool += [ranked(words, total, config.max_length) for words, total in live]
    return sorted(pool, key=lambda one: -one.score)[: config.num_captions]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [one.words for one in found] == [one.words for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=1e-5)
        assert one.score == pytest.approx(other.score, rel=1e-5)


@pytest.mark.parametrize("length_power", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize(("words", "max_length"), [(1, 1), (1, 4), (2, 3), (3, 3), (2, 4)])
def test_a_wide_beam_finds_every_caption_in_the_order_of_its_score(
    words: int, max_length: int, length_power: float
):
    decoder = TableDecoder(words, seed=words + 10 * max_length)
    config = SearchConfig(
        beam_size=80, num_captions=80, max_length=max_length, length_power=length_power
    )
    found = search(decoder, images(0, 3, 8), config)
    for image, hypotheses in zip((0, 3, 8), found, strict=True):
        expected = every_caption(decoder, image, config)
        assert len(expected) == sum(words**length for length in range(1, max_length + 1)) <= 80
        assert_same(hypotheses, expected)


@pytest.mark.parametrize("end", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("length_power", [0.0, 1.0, 1.6])
@pytest.mark.parametrize(("beam_size", "num_captions"), [(1, 1), (2, 1), (3, 1), (3, 3), (9, 4)])
def test_a_narrow_beam_does_what_the_plain_search_does(
    beam_size: int, num_captions: int, length_power: float, end: float
):
    config = SearchConfig(
        beam_size=beam_size,
        num_captions=num_captions,
        max_length=6,
        length_power=length_power,
    )
    for seed in range(2):
        decoder = TableDecoder(6, seed=seed, end=end)
        found = search(decoder, images(*range(7)), config)
        for image, hypotheses in enumerate(found):
            assert_same(hypotheses, plain_beam(decoder, image, config))


@pytest.mark.parametrize("end", [-2.0, 1.0])
def test_a_beam_of_one_is_greedy_search(end: float):
    decoder = TableDecoder(7, seed=5, end=end)
    config = SearchConfig(beam_size=1, max_length=8)
    lengths = set()
    for image, (hypothesis,) in enumerate(search(decoder, images(*range(40)), config)):
        words: tuple[int, ...] = ()
        total = 0.0
        while len(words) < config.max_length:
            values = log_probs_after(decoder, image, words)
            word = max(range(len(values)), key=values.__getitem__)
            total += values[word]
            if word == END:
                break
            words = (*words, word)
        assert hypothesis.words == words
        assert hypothesis.log_prob == pytest.approx(total, rel=1e-5)
        lengths.add(len(words))
    assert len(lengths) > 3


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_result_does_not_depend_on_the_other_images(beam_size: int):
    decoder = TableDecoder(6, seed=2)
    config = SearchConfig(beam_size=beam_size, num_captions=beam_size, max_length=7)
    together = search(decoder, images(*range(20)), config)
    for image, hypotheses in enumerate(together):
        (alone,) = search(decoder, images(image), config)
        assert_same(hypotheses, alone)
        for one, other in zip(hypotheses, alone, strict=True):
            np.testing.assert_array_equal(one.attention, other.attention)


@pytest.mark.parametrize("seed", range(4))
def test_images_with_other_options_share_a_batch_and_change_nothing(seed: int):
    decoder = TableDecoder(6, seed=seed)
    configs = [
        SearchConfig(beam_size=k, num_captions=n, max_length=length, length_power=power)
        for k, n, length, power in (
            (1, 1, 7, 1.0), (3, 1, 2, 1.0), (5, 5, 7, 0.0), (2, 2, 1, 1.0), (10, 4, 9, 0.7),
            (3, 3, 7, 1.0), (3, 2, 12, 2.0), (10, 10, 3, 1.0), (1, 1, 1, 0.5), (4, 1, 7, 1.0),
        )
    ]  # fmt: skip
    together = search(decoder, images(*range(len(configs))), configs)
    for image, config in enumerate(configs):
        (alone,) = search(decoder, images(image), config)
        assert len(alone) <= config.num_captions
        assert_same(together[image], alone)
        for one, other in zip(together[image], alone, strict=True):
            np.testing.assert_array_equal(one.attention, other.attention)


def test_every_word_carries_the_attention_it_was_written_with():
    decoder = TableDecoder(6, seed=4)
    config = SearchConfig(beam_size=4, num_captions=4, max_length=7)
    for image, hypotheses in enumerate(search(decoder, images(*range(10)), config)):
        for hypothesis in hypotheses:
            expected = [
                answer_after(decoder, image, hypothesis.words[:place]).attention[0, 0]
                for place in range(len(hypothesis.words))
            ]
            np.testing.assert_array_equal(hypothesis.attention, np.stack(expected))


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_the_decoder_itself_gives_a_caption_its_log_probability(name: str, beam_size: int):
    generator = torch.Generator().manual_seed(3)
    options = decoder_options(name, {"hidden_size": 10, "embedding_size": 7, "attention_size": 5})
    decoder = give_attributes(
        build_decoder(name, options, vocabulary_size=12, feature_size=6, generator=generator)
    ).eval()
    with torch.no_grad():
        decoder.output.weight.mul_(40)
    features = Features(torch.randn(5, 4, 6, generator=generator))
    found = search(
        decoder, features, SearchConfig(beam_size=beam_size, num_captions=beam_size, max_length=6)
    )
    for image, hypotheses in enumerate(found):
        for hypothesis in hypotheses:
            batch = CaptionBatch.pack([[hypothesis.words]])
            with torch.no_grad():
                output = decoder(features.select(slice(image, image + 1)), batch)
            steps = len(hypothesis.words) + (len(hypothesis.words) < 6)
            values = output.logits.log_softmax(1).gather(1, batch.targets[:, None])[:steps]
            assert hypothesis.log_prob == pytest.approx(values.sum().item(), abs=1e-4)
            looks = decoder.has_attention or decoder.attributes(decoder.prepare(features))
            assert (hypothesis.attention is not None) == bool(looks)
            if decoder.has_attention:
                expected = output.attention[: len(hypothesis.words)]
                over = hypothesis.attention[:, :4]  # the positions, among what is attended to
                over = over / over.sum(1, keepdims=True)
                np.testing.assert_allclose(over, expected, rtol=1e-5, atol=1e-6)


def test_the_words_and_the_end_share_a_caption_s_log_probability():
    decoder = TableDecoder(6, seed=4, end=0.5)
    configs = [
        SearchConfig(beam_size=k, num_captions=k, max_length=length)
        for k, length in ((1, 5), (4, 5), (3, 2), (2, 7), (5, 4))
    ]
    ends = set()
    for image, hypotheses in enumerate(search(decoder, images(*range(5)), configs)):
        longest = configs[image].max_length
        for one in hypotheses:
            ended = one.words if len(one.words) == longest else (*one.words, END)
            expected = [
                log_probs_after(decoder, image, ended[:place])[word]
                for place, word in enumerate(ended)
            ]
            assert one.token_log_probs == pytest.approx(expected, abs=1e-5)
            assert sum(one.token_log_probs) == pytest.approx(one.log_prob, abs=1e-9)
            ends.add(ended[-1] == END)
    assert ends == {True, False}


def test_a_decoder_without_attention_gives_none():
    decoder = TableDecoder(4, seed=1)
    with_attention = decoder.step
    decoder.step = lambda *given: with_attention(*given)._replace(attention=None)
    (hypotheses,) = search(decoder, images(1), SearchConfig())
    assert hypotheses[0].attention is None


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_equal_scores_go_to_the_lower_word(beam_size: int):
    decoder = ConstantDecoder([0.0] * 9)
    config = SearchConfig(beam_size=beam_size, num_captions=beam_size, max_length=4)
    found = search(decoder, images(0, 1), config)
    assert_same(found[0], plain_beam(decoder, 0, config))
    assert_same(found[1], found[0])
    # The end has the lowest number of all that may be written after the first word.
    assert found[0][0].words == (4,)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_what_is_no_word_is_never_written_and_no_caption_is_empty(beam_size: int):
    decoder = ConstantDecoder([50.0, 49.0, 30.0, 51.0, 0.0, -1.0])
    config = SearchConfig(beam_size=beam_size, max_length=5)
    for (hypothesis,) in search(decoder, images(0, 1), config):
        assert hypothesis.words == (4,)
        assert hypothesis.log_prob < -50  # the decoder's own probability, not a mended one


@pytest.mark.parametrize("beam_size", [1, 3])
def test_unfinished_captions_still_compete(beam_size: int):
    decoder = TableDecoder(5, seed=3, end=-1e9)
    config = SearchConfig(beam_size=beam_size, num_captions=beam_size, max_length=6)
    for hypotheses in search(decoder, images(*range(5)), config):
        assert len(hypotheses) == beam_size
        for hypothesis in hypotheses:
            assert len(hypothesis.words) == 6
            assert hypothesis.score == pytest.approx(hypothesis.log_prob / 6**config.length_power)


def test_the_captions_of_an_image_all_differ():
    decoder = TableDecoder(5, seed=6)
    config = SearchConfig(beam_size=7, num_captions=7, max_length=6)
    for hypotheses in search(decoder, images(*range(20)), config):
        assert len({one.words for one in hypotheses}) == 7


def test_a_beam_wider_than_the_vocabulary_gives_all_there_is():
    decoder = TableDecoder(1, seed=1)
    config = SearchConfig(beam_size=10, num_captions=5, max_length=2)
    (hypotheses,) = search(decoder, images(4), config)
    assert {one.words for one in hypotheses} == {(4,), (4, 4)}


def test_finished_images_are_computed_no_further():
    # Image 0 is written to the end; the others end after one word.
    decoder = TableDecoder(3, seed=0)
    with_end = decoder.step

    def step(words: Tensor, state: TableState, memory: TableMemory) -> TableStep:
        result = with_end(words, state, memory)
        result.logits[memory.features[:, 0, 0] > 0, :, END] = 1e3
        result.logits[memory.features[:, 0, 0] == 0, :, END] = -1e3
        return result

    decoder.step = step
    found = search(decoder, images(1, 0, 2, 3), SearchConfig(beam_size=1, max_length=5))
    assert [len(hypotheses[0].words) for hypotheses in found] == [1, 5, 1, 1]
    assert decoder.rows_computed == [(4, 1), (4, 1), (1, 1), (1, 1), (1, 1)]


def test_nothing_is_computed_once_nothing_can_win():
    decoder = ConstantDecoder([0.0, 0.0, 20.0, 0.0, 5.0, 0.0])
    config = SearchConfig(beam_size=3, max_length=20, length_power=0.0)
    (hypotheses,) = search(decoder, images(0), config)
    assert hypotheses[0].words == (4,)
    assert len(decoder.rows_computed) == 2


def test_no_images_give_no_captions():
    assert search(TableDecoder(2, seed=0), images(), SearchConfig()) == []


@pytest.mark.parametrize("logits", [[math.nan] * 6, [0.0] * 4])
def test_a_decoder_that_gives_no_word_is_an_error(logits: list[float]):
    with pytest.raises(CaptionerError, match="no word a probability"):
        search(ConstantDecoder(logits), images(0, 1), SearchConfig(max_length=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; a beam holds 1 caption"),
        ({"beam_size": 10001}, "beam_size is 10001; a beam holds 1 caption"),
        ({"beam_size": 3, "num_captions": 10**20}, f"num_captions is {10**20}; ask for 1"),
        ({"beam_size": 3, "num_captions": 4}, "num_captions is 4 and beam_size 3"),
        ({"num_captions": 0}, "num_captions is 0"),
        ({"max_length": 0}, "max_length is 0; a caption has room for 1"),
        ({"max_length": 10**9}, f"max_length is {10**9}; a caption has room for 1"),
        ({"length_power": -0.5}, "length_power is -0.5; give 0"),
        ({"length_power": 10.5}, "length_power is 10.5; give 0"),
        ({"diversity": 3.0}, "diversity is 3.0 without diverse_groups"),
        ({"length_power": math.nan}, "length_power is nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str):
    with pytest.raises(OptionError, match=message):
        SearchConfig(**options)


class NeverTwice:
    """A caption holds no word twice and ends only after a certain one."""

    def __init__(self, last: int) -> None:
        self.wanted = (END, last)

    def spare(self, length: int) -> int:
        return length + 1

    def allows(self, captions: np.ndarray, words: np.ndarray) -> np.ndarray:
        allowed = ~(words[:, :, None] == captions[:, None, :]).any(axis=2)
        ends_rightly = captions[:, -1:] == self.wanted[1] if captions.shape[1] else False
        return allowed & ((words != END) | ends_rightly)


@pytest.mark.parametrize("beam_size", [1, 2, 80])
def test_a_constraint_vetoes_candidates_and_brings_in_others(beam_size: int):
    decoder = TableDecoder(6, seed=11, end=-4.0)
    config = SearchConfig(beam_size=beam_size, num_captions=beam_size, max_length=4)
    constraints = [NeverTwice(5), None, NeverTwice(9), None]
    features = images(0, 1, 2, 3)
    free = search(decoder, features, config)
    with torch.no_grad():
        found = search_batch(TorchDecoding(decoder, features), [config] * 4, constraints)
    for image, constraint in enumerate(constraints):
        if constraint is None:
            assert_same(found[image], free[image])
            continue
        for hypothesis in found[image]:
            words = hypothesis.words
            assert len(set(words)) == len(words)
            assert words[-1] == constraint.wanted[1] or len(words) == 4
            total = sum(
                log_probs_after(decoder, image, words[:place])[word]
                for place, word in enumerate((*words, END)[:4])
            )
            assert hypothesis.log_prob == pytest.approx(total, rel=1e-5)
        if beam_size == 80:
            expected = [
                one
                for one in every_caption(decoder, image, config)
                if len(set(one.words)) == len(one.words)
                and (one.words[-1] == constraint.wanted[1] or len(one.words) == 4)
            ][:80]
            assert_same(found[image][:20], expected[:20])


def test_a_wanted_word_is_a_candidate_however_improbable():
    decoder = ConstantDecoder([0.0, 0.0, 9.0, 0.0, 9.0, 8.0, 8.0, 8.0, 8.0, -9.0])

    class Only:
        wanted = (9,)

        def spare(self, _: int) -> int:
            return 0

        def allows(self, captions: np.ndarray, words: np.ndarray) -> np.ndarray:
            return (words == 9) if captions.shape[1] == 0 else (words != 9)

    config = SearchConfig(beam_size=1, max_length=3)
    ((alone,),) = search_batch(TorchDecoding(decoder, images(0)), [config], [Only()])
    assert alone.words[0] == 9
    assert alone.log_prob < -17


def test_so_many_more_candidates_are_asked_for_as_may_be_vetoed():
    decoder = ConstantDecoder([0.0, 0.0, 9.0, 0.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])

    class Without:
        wanted = ()

        def spare(self, _: int) -> int:
            return 5

        def allows(self, captions: np.ndarray, words: np.ndarray) -> np.ndarray:
            return ~np.isin(words, [4, 5, 6, 7, 8] if captions.shape[1] == 0 else [])

    config = SearchConfig(beam_size=1, max_length=3)
    ((alone,),) = search_batch(TorchDecoding(decoder, images(0)), [config], [Without()])
    assert alone.words == (9,)


def test_the_search_needs_no_torch():
    code = """
import sys
import numpy as np
from captioner.engines import Candidates
from captioner.search import search
from captioner.search_config import SearchConfig

class Counting:
    def step(self, words, parents, count, wanted):
        shape = (*words.shape, 2)
        best = np.where(words == 1, 4, words + 1)
        ids = np.stack([best, np.full_like(best, 2)], axis=2)
        chance = np.where(best == 7, 0.1, 0.9)
        log_probs = np.log(np.stack([chance, 1 - chance], axis=2)).astype(np.float32)
        order = np.argsort(-log_probs, axis=2)
        log_probs, ids = (np.take_along_axis(one, order, 2) for one in (log_probs, ids))
        return Candidates(log_probs, ids, np.zeros((*words.shape, 0), np.float32), None)

    def keep(self, images): ...

print([found[0].words for found in search(Counting(), [SearchConfig()] * 2)])
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[(4, 5, 6), (4, 5, 6)]", "False"]
