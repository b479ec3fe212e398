"""The words that captions share, counted against a loop over captions and references."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from captioner.vocabulary import END, Vocabulary
from training.caption_figures import FUNCTION_WORDS
from training.objectives.word_overlap import WordOverlap

WORDS = ("a", "the", "of", "dog", "cat", "table", "red", "runs")
VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *WORDS))


def weight(words: Counter[str]) -> float:
    return sum((0.25 if word in FUNCTION_WORDS else 0.75) * words[word] for word in words)


def mean_of(candidate: Sequence[str], reference: Sequence[str]) -> float:
    mine, theirs = Counter(candidate), Counter(reference)
    matched = weight(mine & theirs)
    if not matched:
        return 0.0
    precision, recall = matched / weight(mine), matched / weight(theirs)
    return precision * recall / (0.85 * precision + 0.15 * recall)


def as_ids(candidates: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    rows = [[*VOCABULARY.encode(words), END] for words in candidates]
    lengths = np.array([len(row) for row in rows])
    words = np.zeros((len(rows), lengths.max() + 3), np.int64)
    for row, ids in zip(words, rows, strict=True):
        row[: len(ids)] = ids
        row[len(ids) :] = VOCABULARY.encode(["dog"])[0]  # what stands behind counts for nothing
    return words, lengths


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def drawn(words: Sequence[str], least: int = 0) -> list[str]:
        return [str(word) for word in draw.choice(words, draw.integers(least, 9))]

    references = [
        [drawn([*WORDS, "unheard"], least=1) for _ in range(draw.integers(1, 6))] for _ in range(12)
    ]
    candidates = [drawn(WORDS) for _ in range(60)]
    words, lengths = as_ids(candidates)
    image = draw.integers(0, 12, 60)
    found = WordOverlap(VOCABULARY).score(words, lengths, image, references)
    wanted = [
        max(mean_of(one, reference) for reference in references[of])
        for one, of in zip(candidates, image.tolist(), strict=True)
    ]
    assert max(wanted) > 0.5
    assert min(wanted) == 0.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_what_is_left_out_counts_more_than_what_is_too_much() -> None:
    reference = [["a", "red", "dog", "runs"]]
    words, lengths = as_ids(
        [["a", "dog"], ["a", "red", "dog", "runs", "of", "the", "red", "table", "cat"]]
    )
    found = WordOverlap(VOCABULARY).score(words, lengths, np.zeros(2, int), [reference])
    assert found[0] < 0.5 < found[1]


def test_the_reference_scores_one_in_any_order() -> None:
    words, lengths = as_ids([["runs", "dog", "red", "a"]])
    found = WordOverlap(VOCABULARY).score(
        words, lengths, np.zeros(1, int), [[["a", "red", "dog", "runs"], ["a", "cat"]]]
    )
    assert found == pytest.approx(1.0)
