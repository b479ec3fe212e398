"""The fit of a confidence curve to outcomes, and how reliable it proves on captions left out.

An outcome is 1 where a caption passed the bar and 0 where it did not, or the share of its trials
that did. The fit is the logistic regression of greatest likelihood, found by Newton's method.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

_RIDGE = 1e-3  # times the number of captions: keeps weights finite where a figure tells all
_MOST_STEPS = 50
_BINS = 10


class Bin(NamedTuple):
    """Captions of about the same confidence."""

    confidence: float  # the mean
    passed: float  # the share that passed the bar
    captions: int


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What confidences were worth."""

    captions: int
    base_rate: float  # the share of all that passed
    brier: float  # mean squared difference between confidence and outcome (Brier 1950)
    brier_of_base_rate: float  # the same where every confidence is the base rate
    calibration_error: float  # mean difference between both sides of a bin (Naeini et al. 2015)
    auc: float  # chance that of two captions the one that passed has the greater confidence
    bins: tuple[Bin, ...]  # of equally many captions, in rising order

    @classmethod
    def of(cls, confidences: np.ndarray, outcomes: np.ndarray) -> Self:
        """Return the measures of confidences [captions] against their outcomes [captions]."""
        order = np.argsort(confidences, kind="stable")
        bins = [
            Bin(float(confidences[some].mean()), float(outcomes[some].mean()), len(some))
            for some in np.array_split(order, _BINS)
            if len(some)
        ]
        rate = float(outcomes.mean())
        return cls(
            captions=len(outcomes),
            base_rate=rate,
            brier=_brier(confidences, outcomes),
            brier_of_base_rate=_brier(np.full(len(outcomes), rate), outcomes),
            calibration_error=sum(abs(one.confidence - one.passed) * one.captions for one in bins)
            / len(outcomes),
            auc=_auc(confidences, outcomes),
            bins=tuple(bins),
        )


def fit_logistic(figures: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights [figures] and the bias: figures [captions, figures], outcomes [captions].

    A figure that is the same everywhere gets the weight 0.
    """
    mean, spread = figures.mean(axis=0), figures.std(axis=0)
    scale = np.where(spread > 0, spread, np.inf)
    known = np.concatenate([(figures - mean) / scale, np.ones((len(figures), 1))], axis=1)
    penalty = np.append(np.full(figures.shape[1], _RIDGE * len(figures)), 1e-9)
    found = np.zeros(known.shape[1])
    for _ in range(_MOST_STEPS):
        chance = 1 / (1 + np.exp(-known @ found))
        slope = known.T @ (outcomes - chance) - penalty * found
        curvature = known.T @ (known * (chance * (1 - chance))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        found += step
        if np.abs(step).max() < 1e-10:
            break
    weights = found[:-1] / scale
    return weights, float(found[-1] - weights @ mean)


def confidences_of(weights: np.ndarray, bias: float, figures: np.ndarray) -> np.ndarray:
    """Return the confidence in each caption: figures [captions, figures] -> [captions]."""
    return np.asarray(1 / (1 + np.exp(-(figures @ weights + bias))))


def left_out(figures: np.ndarray, outcomes: np.ndarray, seed: int) -> np.ndarray:
    """Return the confidence in each caption by the curve of the half that it is not in."""
    order = np.random.default_rng(seed).permutation(len(outcomes))
    halves = order[::2], order[1::2]
    found = np.empty(len(outcomes))
    for one, other in (halves, halves[::-1]):
        found[other] = confidences_of(*fit_logistic(figures[one], outcomes[one]), figures[other])
    return found


def _brier(confidences: np.ndarray, outcomes: np.ndarray) -> float:
    # An outcome between 0 and 1 stands for that share of trials with 1 and the rest with 0.
    passed, failed = (confidences - 1) ** 2, confidences**2
    return float((outcomes * passed + (1 - outcomes) * failed).mean())


def _auc(confidences: np.ndarray, outcomes: np.ndarray) -> float:
    """Return the area under the ROC curve; nan where all have passed, or none."""
    _, place = np.unique(confidences, return_inverse=True)
    passed, failed = np.bincount(place, outcomes), np.bincount(place, 1 - outcomes)
    below = np.cumsum(failed) - failed
    pairs = passed.sum() * failed.sum()
    return float((passed * (below + failed / 2)).sum() / pairs) if pairs else float("nan")
