"""The reward on word ids equals coco-caption's scores of the same captions as text."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer

from captioner.vocabulary import END, Vocabulary
from training.objectives import caption_reward
from training.objectives.caption_reward import CaptionReward

WORDS = [f"w{number}" for number in range(12)]
Images = list[list[list[str]]]


def made(images: int, *, seed: int) -> tuple[Images, list[list[str]], Vocabulary]:
    """Return references of images, 1 to 5 each, and a candidate for each image.

    The references hold words that the vocabulary lacks; some candidates are a reference, some
    repeat themselves, some are one word.
    """
    draw = random.Random(seed)
    rare = [*WORDS, "rare", "rarer"]
    references = [
        [draw.choices(rare, k=draw.randint(1, 9)) for _ in range(draw.randint(1, 5))]
        for _ in range(images)
    ]
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *WORDS))
    candidates = []
    for own in references:
        known = [word for word in draw.choice(own) if word in vocabulary]
        candidates.append(known or ["w0"])
    candidates[::3] = [draw.choices(WORDS[:2], k=draw.randint(1, 12)) for _ in candidates[::3]]
    return references, candidates, vocabulary


def as_ids(
    candidates: Sequence[Sequence[str]], vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    rows = [[*vocabulary.encode(words), END] for words in candidates]
    lengths = np.array([len(row) for row in rows])
    words = np.full((len(rows), lengths.max() + 2), END)
    for row, ids in zip(words, rows, strict=True):
        row[: len(ids)] = ids
    return words, lengths


def as_text(words: Sequence[str]) -> str:
    return " ".join([*words, "<end>"])


@pytest.mark.parametrize("seed", range(3))
def test_cider_and_bleu_equal_coco_captions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_reward, "_COUNTED_TOGETHER", 7)
    references, candidates, vocabulary = made(40, seed=seed)
    reward = CaptionReward(references, vocabulary)
    words, lengths = as_ids(candidates, vocabulary)
    for _ in range(2):  # the second time from what was kept
        cider, bleu = reward.score(words, lengths, np.arange(40), references, bleu=True)
    theirs, their_bleu = CiderScorer(n=4, sigma=6.0), BleuScorer(n=4)
    for candidate, own in zip(candidates, references, strict=True):
        theirs += (as_text(candidate), list(map(as_text, own)))
        their_bleu += (as_text(candidate), list(map(as_text, own)))
    np.testing.assert_allclose(cider, theirs.compute_score()[1], rtol=0, atol=1e-9)
    each = their_bleu.compute_score(option="closest")[1][3]
    np.testing.assert_allclose(bleu, each, rtol=0, atol=1e-12)


def test_many_captions_of_an_image_and_any_order_of_images() -> None:
    references, candidates, vocabulary = made(12, seed=7)
    reward = CaptionReward(references, vocabulary)
    words, lengths = as_ids(candidates, vocabulary)
    alone = [
        reward.score(words[n : n + 1], lengths[n : n + 1], np.zeros(1, int), [references[m]])[0][0]
        for n in range(12)
        for m in range(12)
    ]
    order = np.random.default_rng(0).permutation(144)
    caption, image = order // 12, order % 12
    together, bleu = reward.score(words[caption], lengths[caption], image, references)
    np.testing.assert_allclose(together, np.array(alone)[order], rtol=0, atol=1e-12)
    assert bleu is None


def test_references_outside_the_training_set_weigh_as_if_one_image_had_them() -> None:
    references, candidates, vocabulary = made(30, seed=1)
    others = [[["w1", "w1", "never", "seen"], ["w2", "seen", "w3"]]]
    reward = CaptionReward(references, vocabulary)
    words, lengths = as_ids([["w1", "w1", "w2"]], vocabulary)
    found, _ = reward.score(words, lengths, np.zeros(1, int), others)
    theirs = CiderScorer(n=4, sigma=6.0)
    for candidate, own in zip(candidates, references, strict=True):
        theirs += (as_text(candidate), list(map(as_text, own)))
    theirs.compute_doc_freq()
    theirs.crefs[0] = [caption_reward_counts(words) for words in others[0]]
    theirs.ctest[0] = caption_reward_counts(["w1", "w1", "w2"])
    assert found[0] == pytest.approx(theirs.compute_cider()[0], abs=1e-9)


def caption_reward_counts(words: Sequence[str]) -> dict[tuple[str, ...], int]:
    from pycocoevalcap.cider.cider_scorer import precook

    counts: dict[tuple[str, ...], int] = precook(as_text(words))
    return counts


def test_a_caption_that_breaks_off_scores_less_than_the_whole() -> None:
    references = [[["a", "man", "in", "a", "hat"]], [["a", "dog", "runs"]], [["two", "cats"]]]
    words = sorted({word for own in references for caption in own for word in caption})
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *words))
    reward = CaptionReward(references, vocabulary)
    candidates, lengths = as_ids([["a", "man", "in", "a", "hat"]] * 2, vocabulary)
    lengths[1] -= 1  # the same, but cut before its end
    cider, _ = reward.score(candidates, lengths, np.zeros(2, int), references)
    assert cider[0] == pytest.approx(10)
    assert cider[1] < 9


def test_what_was_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_reward, "_KEPT_IMAGES", 5)
    references, candidates, vocabulary = made(12, seed=3)
    words, lengths = as_ids(candidates, vocabulary)
    whole, _ = CaptionReward(references, vocabulary).score(
        words, lengths, np.arange(12), references
    )
    reward = CaptionReward(references, vocabulary)
    for start in (0, 4, 2, 8, 6):
        here = slice(start, start + 4)
        some, _ = reward.score(words[here], lengths[here], np.arange(4), references[here])
        np.testing.assert_array_equal(some, whole[here])
        assert len(reward._counted) <= 5
