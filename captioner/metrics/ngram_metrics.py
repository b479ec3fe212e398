"""BLEU, ROUGE-L and CIDEr against references that are counted once and kept.

pycocoevalcap's scorers compute BLEU and ROUGE-L. Its CIDEr weighs every reference again at each
call, which takes most of a validation's time, so its sum is written out here over the same numbers
in the same order (Vedantam et al. 2015, with the clipping and length penalty of CIDEr-D as in
coco-caption).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ORDERS = 4  # n-grams of 1 to 4 words
_SMALL, _TINY = 1e-9, 1e-15  # in BLEU, against divisions by zero
_SIGMA = 6.0  # words; width of CIDEr-D's penalty for a difference in length


@dataclass(frozen=True, kw_only=True)
class BleuCounts:
    """What BLEU adds up over all captions; the lists hold 1-grams to 4-grams."""

    testlen: int
    reflen: int
    guess: tuple[int, ...]
    correct: tuple[int, ...]


def bleu_of_counts(sums: Sequence[float] | np.ndarray) -> list[float]:
    """Return BLEU-1 to BLEU-4 of a row of sums: both lengths, possible and right n-grams.

    The constants and their order are those of pycocoevalcap.
    """
    testlen, reflen = map(float, sums[:2])
    guesses, corrects = sums[2 : 2 + ORDERS], sums[2 + ORDERS :]
    product, found = 1.0, []
    for order, (guess, correct) in enumerate(zip(guesses, corrects, strict=True), 1):
        product *= float(correct + _TINY) / (float(guess) + _SMALL)
        found.append(product ** (1.0 / order))
    ratio = (testlen + _TINY) / (reflen + _SMALL)
    return [one * math.exp(1 - 1 / ratio) for one in found] if ratio < 1 else found


class Bleu:
    """Corpus BLEU with the closest reference length (Papineni et al. 2002)."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer

        self._scorer = BleuScorer(n=ORDERS)
        for own in references:
            self._scorer.cook_append(None, own)

    def score(
        self, candidates: Sequence[str]
    ) -> tuple[list[float], list[list[float]], BleuCounts, np.ndarray]:
        """Return BLEU-1 to BLEU-4 of all captions, the same of each caption, and the counts.

        The last are those of all captions and of each, [captions, 2 + 2 * ORDERS], a row as
        `bleu_of_counts` takes it.
        """
        self._scorer.retest(list(candidates))
        overall, each = self._scorer.compute_score(option="closest", verbose=0)
        cooked = self._scorer.ctest
        counts = BleuCounts(
            testlen=self._scorer._testlen,
            reflen=self._scorer._reflen,
            guess=tuple(sum(one["guess"][n] for one in cooked) for n in range(ORDERS)),
            correct=tuple(sum(one["correct"][n] for one in cooked) for n in range(ORDERS)),
        )
        closest = [
            self._scorer._single_reflen(one["reflen"], "closest", one["testlen"]) for one in cooked
        ]
        rows = [
            [one["testlen"], reflen, *one["guess"], *one["correct"]]
            for one, reflen in zip(cooked, closest, strict=True)
        ]
        return overall, each, counts, np.array(rows, dtype=np.float64)


class Rouge:
    """ROUGE-L: the F measure of the longest common subsequence (Lin 2004)."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        from pycocoevalcap.rouge.rouge import Rouge as Scorer

        self._scorer = Scorer()
        self._references = references

    def score(self, candidates: Sequence[str]) -> tuple[float, list[float]]:
        """Return the mean score and that of each caption."""
        each = [
            float(self._scorer.calc_score([candidate], own))
            for candidate, own in zip(candidates, self._references, strict=True)
        ]
        return float(np.mean(each)), each


NGram = tuple[str, ...]


def _ngrams(caption: str) -> Counter[NGram]:
    """Return how often each n-gram stands in a caption, the shortest first."""
    words = caption.split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


@dataclass(frozen=True, slots=True)
class _Reference:
    """One reference caption: its n-gram counts, the norm of its weights by n, its length."""

    counts: Mapping[NGram, int]
    norms: tuple[float, ...]
    length: int


class Cider:
    """CIDEr-D; the document frequencies are those of the references given."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        counted = [[_ngrams(reference) for reference in own] for own in references]
        images = Counter(ngram for own in counted for ngram in {key for one in own for key in one})
        # The weight of an n-gram that no reference holds; it counts as if one image had it.
        self._unseen = float(np.log(float(len(references))))
        weights = (self._unseen - np.log(np.array(list(images.values()), np.float64))).tolist()
        self._weights: dict[NGram, float] = dict(zip(images, weights, strict=True))
        self._texts = references
        self._references = [
            [_Reference(counts, *self._norms(counts)) for counts in own] for own in counted
        ]

    def score(self, candidates: Sequence[str]) -> tuple[float, list[float]]:
        """Return the mean score and that of each caption, each about between 0 and 10."""
        each = [
            self._score_one(candidate, own)
            for candidate, own in zip(candidates, self._references, strict=True)
        ]
        return float(np.mean(each)), each

    def score_without_each(
        self, candidates: Sequence[str]
    ) -> list[tuple[list[float], list[float]]]:
        """Return for every image what its references and its candidate score without one of them.

        For each reference of an image: its own score against the other ones, and that of the
        candidate against the same. An image with fewer than two references has none.
        """
        found = []
        for candidate, texts, own in zip(candidates, self._texts, self._references, strict=True):
            others = [own[:place] + own[place + 1 :] for place in range(len(own))]
            if len(own) < 2:
                others, texts = [], []
            theirs = [self._score_one(text, rest) for text, rest in zip(texts, others, strict=True)]
            found.append((theirs, [self._score_one(candidate, rest) for rest in others]))
        return found

    def _norms(self, counts: Mapping[NGram, int]) -> tuple[tuple[float, ...], int]:
        squares = [0.0] * ORDERS
        length = 0
        for ngram, count in counts.items():
            squares[len(ngram) - 1] += pow(count * self._weights.get(ngram, self._unseen), 2)
            if len(ngram) == 2:  # coco-caption measures the length in pairs of words
                length += count
        return tuple(float(np.sqrt(square)) for square in squares), length

    def _score_one(self, candidate: str, references: Sequence[_Reference]) -> float:
        counts = _ngrams(candidate)
        norms, length = self._norms(counts)
        weights = self._weights
        weighted = [
            (ngram, len(ngram) - 1, weights[ngram], count * weights[ngram])
            for ngram, count in counts.items()
            if ngram in weights  # else no reference can share it
        ]
        totals = [0.0] * ORDERS
        for reference in references:
            products = [0.0] * ORDERS
            for ngram, order, weight, own in weighted:
                if count := reference.counts.get(ngram, 0):
                    theirs = count * weight
                    products[order] += min(own, theirs) * theirs
            delta = float(length - reference.length)
            penalty = np.e ** (-(delta**2) / (2 * _SIGMA**2))
            for order in range(ORDERS):
                norm = norms[order] * reference.norms[order]
                if norm != 0:
                    products[order] /= norm
                totals[order] += products[order] * penalty
        return sum(totals) / ORDERS / len(references) * 10.0
