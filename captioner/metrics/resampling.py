"""Bootstrap: how far the scores of a set would move with other images of the same kind.

Images are drawn with replacement, as many as there are, again and again (Efron 1979). Each metric
is computed anew from what it adds up over images, so nothing is tokenised or aligned twice: BLEU
and METEOR from sums of their counts, the others as means. CIDEr's idf stays that of all references.
Two sets of captions are compared on the same draws (Koehn 2004); the p-value is the share of draws
in which the difference, centred on the one that was found, is at least as large as that one
(Berg-Kirkpatrick et al. 2012), so a small one says that chance seldom makes such a difference.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from captioner.errors import DataError, OptionError
from captioner.metrics.ngram_metrics import ORDERS, bleu_of_counts

LEVEL = 0.95
_IMAGES_AT_ONCE = 4_000_000  # draws held in memory

MeteorOfSums = Callable[[np.ndarray], list[float]]  # of [draws, statistics]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the metrics add up, a row for each image."""

    bleu: np.ndarray  # [images, 2 + 2 * ORDERS]: lengths, then possible and right n-grams
    meteor: np.ndarray  # [images, statistics of the jar]
    means: Mapping[str, np.ndarray]  # [images] of each metric that is a mean over images

    def __len__(self) -> int:
        return len(self.bleu)

    def figures(self, counts: np.ndarray, meteor: MeteorOfSums) -> dict[str, np.ndarray]:
        """Return every metric of each draw, where `counts` [draws, images] says how often an image
        was drawn."""
        weights = counts.astype(np.float64)
        bleu = np.array([bleu_of_counts(sums) for sums in weights @ self.bleu])
        return {
            **{f"Bleu_{n + 1}": bleu[:, n] for n in range(ORDERS)},
            "METEOR": np.array(meteor(weights @ self.meteor)),
            **{name: weights @ each / len(each) for name, each in self.means.items()},
        }


class Interval(NamedTuple):
    """Where 95 % of the resampled scores lie."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of two sets of captions for the same images."""

    first: float
    second: float
    difference: Interval  # of the second less the first
    p_value: float  # two-sided


def bootstrap(
    statistics: Statistics, meteor: MeteorOfSums, *, samples: int, seed: int
) -> dict[str, Interval]:
    """Return the 95 % interval of each metric.

    Raises:
        OptionError: fewer than two samples are wanted, or the seed is negative.
    """
    return {
        name: interval_of(np.concatenate(values))
        for name, values in _collected(
            statistics.figures(counts, meteor) for counts in drawn(len(statistics), samples, seed)
        ).items()
    }


def compare(
    first: Statistics, second: Statistics, meteor: MeteorOfSums, *, samples: int, seed: int
) -> dict[str, Comparison]:
    """Return each metric of both, the interval of the difference, and its p-value.

    Raises:
        DataError: the two are not of as many images.
        OptionError: fewer than two samples are wanted, or the seed is negative.
    """
    if len(first) != len(second):
        raise DataError(f"{len(first):,} images cannot be compared with {len(second):,}")
    everything = np.ones((1, len(first)))
    one, other = (own.figures(everything, meteor) for own in (first, second))
    differences = _collected(
        _difference(first.figures(counts, meteor), second.figures(counts, meteor))
        for counts in drawn(len(first), samples, seed)
    )
    return {
        name: Comparison(
            first=float(one[name][0]),
            second=float(other[name][0]),
            difference=interval_of(np.concatenate(values)),
            p_value=p_value_of(np.concatenate(values), float(other[name][0] - one[name][0])),
        )
        for name, values in differences.items()
    }


def check_samples(samples: int, seed: int) -> None:
    """Raise OptionError if fewer than two samples are wanted, or the seed is negative."""
    if samples < 2:
        raise OptionError(f"--bootstrap is {samples}; draw at least 2 times")
    if seed < 0:
        raise OptionError(f"--seed is {seed}; it cannot be negative")


def drawn(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, [draws, images], some draws at a time.

    Raises:
        OptionError: fewer than two samples are wanted, or the seed is negative.
    """
    check_samples(samples, seed)
    generator = np.random.default_rng(seed)
    at_once = max(1, _IMAGES_AT_ONCE // images)
    for start in range(0, samples, at_once):
        draws = generator.integers(images, size=(min(at_once, samples - start), images))
        yield np.stack([np.bincount(one, minlength=images) for one in draws])


def _collected(chunks: Iterator[dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for chunk in chunks:
        for name, values in chunk.items():
            found.setdefault(name, []).append(values)
    return found


def _difference(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: second[name] - first[name] for name in first if name in second}


def interval_of(values: np.ndarray) -> Interval:
    """Return where 95 % of the values lie."""
    outside = (1 - LEVEL) / 2
    return Interval(*map(float, np.quantile(values, [outside, 1 - outside])))


def p_value_of(differences: np.ndarray, found: float) -> float:
    """Return the two-sided p-value of a difference that was found, from resampled ones."""
    # Rounding must not tell a draw with the very difference that was found from that one.
    slack = 1e-12 * max(1.0, abs(found))
    extreme = np.abs(differences - found) >= abs(found) - slack
    return float((1 + extreme.sum()) / (1 + len(differences)))
