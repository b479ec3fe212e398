"""BLEU, ROUGE-L and CIDEr against references that are counted once and kept.

pycocoevalcap cuts and counts the n-grams, and its scorers compute BLEU and ROUGE-L. Its CIDEr
weighs every reference again at each call, which takes most of a validation's time, so its sum is
written out here over the same numbers in the same order (Vedantam et al. 2015, with the clipping
and length penalty of CIDEr-D as in coco-caption).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class _Reference:
    """One reference caption: its n-gram counts, the norm of its weights by n, its length."""

    counts: Mapping[NGram, int]
    norms: tuple[float, ...]
    length: int


class Cider:
    """CIDEr-D; the document frequencies are those of the references given."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        from pycocoevalcap.cider.cider_scorer import CiderScorer, precook

        self._cook: Any = precook
        scorer = CiderScorer(n=ORDERS, sigma=_SIGMA)
        for own in references:
            scorer.cook_append(None, own)
        scorer.compute_doc_freq()
        # The weight of an n-gram that no reference holds; it counts as if one image had it.
        self._unseen = float(np.log(float(len(references))))
        frequencies = np.array(list(scorer.document_frequency.values()))
        weights = (self._unseen - np.log(frequencies)).tolist()
        self._weights: dict[NGram, float] = dict(
            zip(scorer.document_frequency, weights, strict=True)
        )
        self._references = [
            [_Reference(counts, *self._norms(counts)) for counts in own] for own in scorer.crefs
        ]

    def score(self, candidates: Sequence[str]) -> tuple[float, list[float]]:
        """Return the mean score and that of each caption, each about between 0 and 10."""
        each = [
            self._score_one(candidate, own)
            for candidate, own in zip(candidates, self._references, strict=True)
        ]
        return float(np.mean(each)), each

    def _norms(self, counts: Mapping[NGram, int]) -> tuple[tuple[float, ...], int]:
        squares = [0.0] * ORDERS
        length = 0
        for ngram, count in counts.items():
            squares[len(ngram) - 1] += pow(count * self._weights.get(ngram, self._unseen), 2)
            if len(ngram) == 2:  # coco-caption measures the length in pairs of words
                length += count
        return tuple(float(np.sqrt(square)) for square in squares), length

    def _score_one(self, candidate: str, references: Sequence[_Reference]) -> float:
        counts: Mapping[NGram, int] = self._cook(candidate, ORDERS)
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
                # Indexing would add the missing n-gram to coco-caption's defaultdict.
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
