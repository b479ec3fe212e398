"""Student's t of a few seeds: how far their mean may lie from that of all seeds.

Drawing from two or three seeds anew makes intervals that are far too narrow: 60 or 80 % of them
would hold the truth where the seeds differ more than the images do. Student's t knows of how few
numbers the spread was found (Student 1908). Its distribution for whole degrees of freedom is the
finite sum of Abramowitz & Stegun, 26.7.3 and 26.7.4.
"""

import math
from collections.abc import Sequence

import numpy as np

from captioner.metrics.resampling import LEVEL, Interval

_HALVINGS = 100


def seed_interval(by_seed: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean over all seeds, from that of at least two."""
    mean, error = _mean_and_error(by_seed)
    reach = error * quantile(LEVEL, len(by_seed) - 1)
    return Interval(mean - reach, mean + reach)


def seed_p_value(by_seed: Sequence[float]) -> float:
    """Return how often a mean would lie so far from zero if that of all seeds were zero."""
    mean, error = _mean_and_error(by_seed)
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return 1.0 - share_within(abs(mean) / error, len(by_seed) - 1)


def share_within(t: float, degrees: int) -> float:
    """Return the share of Student's t between -t and t, for t of at least 0."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = sine * cosine if is_odd else sine
    total = 0.0
    for step in range(3 if is_odd else 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (step - 1) / step
    return 2.0 / math.pi * (angle + total) if is_odd else total


def quantile(level: float, degrees: int) -> float:
    """Return the t between whose negative and which this share lies."""
    low, high = 0.0, 1.0
    while share_within(high, degrees) < level:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if share_within(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


def _mean_and_error(by_seed: Sequence[float]) -> tuple[float, float]:
    spread = float(np.std(by_seed, ddof=1))
    return float(np.mean(by_seed)), spread / math.sqrt(len(by_seed))
