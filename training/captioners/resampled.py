"""Scores of runs under other images and other seeds, and the paired test of two groups of runs.

Images are drawn with replacement as in `captioner/metrics/resampling.py`, the same draws for every
run. A score of several seeds is their mean. Its interval, and that of a difference, come from
drawing images and seeds, both with replacement (the pigeonhole bootstrap of Owen 2007, for two
crossed factors). Deviations of seeds are stretched by sqrt(n / (n - 1)), because drawing from only
n of them would make their spread too small by that factor (Davison & Hinkley 1997, section 2.2).
An interval reaches at least as far as that of Student's t over the seeds alone, and a p-value is
not below that one's, for two or three seeds say little of all of them (`few_seeds.py`).
The test is paired twice: runs that are compared share the seed, so weights and order of the images,
and are scored on the same images. The p-value is the share of draws whose difference lies as far
from the one that was found as that one from zero.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from captioner.errors import DataError
from captioner.files import file_hash, write_atomically
from captioner.metrics import Scorer, read_pairs
from captioner.metrics.resampling import Interval, drawn, interval_of, p_value_of
from captioner.metrics.score_files import References
from training.captioners.few_seeds import seed_interval, seed_p_value
from training.captioners.runs import METRICS

_FORMAT = 1
_SEED = 0  # of all draws


@dataclass(frozen=True, eq=False)
class Resampled:
    """The scores of one run: as they are, and for each draw of the images."""

    found: Mapping[str, float]
    draws: Mapping[str, np.ndarray]  # [samples]
    images: str = ""  # which they are, with their references


class Resampler(AbstractContextManager["Resampler"]):
    """Scores files of captions with their references, as they are and for draws of the images.

    What it finds is kept beside each file, and taken from there while the file is the same.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._scorer: Scorer | None = None
        self._scored = ""  # whose references the scorer holds

    def __exit__(self, *_: object) -> None:
        if self._scorer is not None:
            self._scorer.close()

    def resample(self, captions: Path) -> Resampled:
        """Return the scores of a file.

        Raises:
            DataError: the file is missing or malformed.
            ToolError: Java is missing, or METEOR failed.
        """
        kept = captions.with_suffix(".npz")
        identity = [str(_FORMAT), file_hash(captions), str(self._samples), str(_SEED)]
        if (known := _kept(kept, identity)) is not None:
            return known
        references, candidates = read_pairs(captions)
        images = hashlib.sha256(json.dumps(list(references.items())).encode()).hexdigest()
        scorer = self._scorer_of(references, images)
        scores = scorer.score(candidates)
        assert scores.statistics is not None
        chunks = [
            scores.statistics.figures(counts, scorer.meteor.scores_of_sums)
            for counts in drawn(len(scores.statistics), self._samples, _SEED)
        ]
        made = Resampled(
            {name: scores[name] for name in METRICS},
            {name: np.concatenate([chunk[name] for chunk in chunks]) for name in METRICS},
            images,
        )
        arrays: dict[str, Any] = {"identity": np.array(identity), "images": np.array(images)}
        arrays |= {f"found/{name}": np.array(made.found[name]) for name in METRICS}
        arrays |= {f"draws/{name}": made.draws[name] for name in METRICS}
        written = BytesIO()
        np.savez(written, **arrays)
        write_atomically(kept, written.getvalue())
        return made

    def _scorer_of(self, references: References, images: str) -> Scorer:
        """Return the scorer of these references: mostly the one that is there."""
        if self._scorer is None or images != self._scored:
            self.__exit__()
            self._scorer, self._scored = Scorer(references), images
        return self._scorer


def _kept(path: Path, identity: list[str]) -> Resampled | None:
    """Return what a file keeps for this identity; None where it is not there, or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            if stored["identity"].tolist() != identity:
                return None
            return Resampled(
                {name: float(stored[f"found/{name}"]) for name in METRICS},
                {name: stored[f"draws/{name}"] for name in METRICS},
                str(stored["images"]),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


class Estimate(NamedTuple):
    """A score over seeds."""

    mean: float
    interval: Interval  # over images and, from two seeds on, seeds
    by_seed: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds; None of fewer than two."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


class Difference(NamedTuple):
    """A score of one group of runs less that of another, run by run of the same seed."""

    mean: float
    interval: Interval
    p_value: float  # two-sided
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """Say what the interval tells: better, worse, or nothing."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "not shown"


def estimate(runs: Sequence[Resampled], metric: str) -> Estimate:
    """Return the mean over these runs, which differ in their seeds, and its interval."""
    by_seed = tuple(run.found[metric] for run in runs)
    values = over_seeds(np.stack([run.draws[metric] for run in runs]))
    return Estimate(float(np.mean(by_seed)), with_seeds(interval_of(values), by_seed), by_seed)


def difference(first: Sequence[Resampled], second: Sequence[Resampled], metric: str) -> Difference:
    """Return how much better the second runs are than the first ones of the same seeds.

    Raises:
        DataError: there are not as many of them, or they captioned other images.
    """
    pairs = list(zip(first, second, strict=False))
    if not pairs or len(first) != len(second):
        raise DataError(f"{len(first)} runs cannot be compared with {len(second)} seed by seed")
    if any(one.images != two.images for one, two in pairs):
        raise DataError(
            "runs that are compared have captions of different images; score them again, or leave "
            "the broken images out of the data set"
        )
    by_seed = tuple(two.found[metric] - one.found[metric] for one, two in pairs)
    found = float(np.mean(by_seed))
    values = over_seeds(np.stack([two.draws[metric] - one.draws[metric] for one, two in pairs]))
    p_value = p_value_of(values, found)
    if len(by_seed) > 1:
        p_value = max(p_value, seed_p_value(by_seed))
    return Difference(found, with_seeds(interval_of(values), by_seed), p_value, by_seed)


def with_seeds(interval: Interval, by_seed: Sequence[float]) -> Interval:
    """Return the interval, widened to that of the seeds alone where this reaches further."""
    if len(by_seed) < 2:
        return interval
    low, high = seed_interval(by_seed)
    return Interval(min(interval.low, low), max(interval.high, high))


def over_seeds(values: np.ndarray) -> np.ndarray:
    """Return the mean over seeds of each draw of images, with seeds drawn too: [S, n] -> [n]."""
    seeds, samples = values.shape
    middle = values.mean(axis=0)
    if seeds == 1:
        return middle
    chosen = np.random.default_rng(_SEED).integers(seeds, size=(seeds, samples))
    of_drawn = np.take_along_axis(values, chosen, axis=0).mean(axis=0)
    stretched: np.ndarray = middle + math.sqrt(seeds / (seeds - 1)) * (of_drawn - middle)
    return stretched
