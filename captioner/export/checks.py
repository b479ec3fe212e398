"""Checks of an exported captioner against the checkpoint it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.engines.interface import Decoding, Engine
from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.search import Hypothesis
from captioner.search_config import SearchConfig
from captioner.vocabulary import START

TOLERANCE = 1e-4  # of a log-probability in float32
NEAR_TIE = 1e-3  # between the scores of two captions
_BEAM, _STEPS, _KEEP_AFTER = 3, 8, 5


class ExportError(CaptionerError):
    """A graph does not compute what the checkpoint computes."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many photographs have the same captions by two engines."""

    images: int
    equal: int
    near_ties: int  # other captions, of scores that are equal but for rounding
    different: int

    def __str__(self) -> str:
        return (
            f"{self.equal:,} of {self.images:,} captions are equal, {self.near_ties:,} are near "
            f"ties, {self.different:,} differ"
        )


def synthetic_photographs(side: int, count: int = 3) -> list[np.ndarray]:
    """Return pictures of smooth colours and noise, uint8 [side, side, 3], always the same."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(0.0, 1.0, side)
    pictures = []
    for _ in range(count):
        corners = generator.uniform(0, 255, (2, 2, 3))
        across = corners[:, :1] * (1 - ramp)[:, None] + corners[:, 1:] * ramp[:, None]
        smooth = across[0] * (1 - ramp)[:, None, None] + across[1] * ramp[:, None, None]
        noisy = smooth + generator.normal(0, 20, (side, side, 3))
        pictures.append(noisy.clip(0, 255).astype(np.uint8))
    return pictures


def check_log_probs(
    reference: Engine, exported: Engine, pixels: Sequence[np.ndarray], vocabulary_size: int
) -> float:
    """Return the greatest difference of a log-probability along a beam search of some steps.

    From the pixels on, everything is computed by both; captions change places and an image leaves.

    Raises:
        ExportError: it is above `TOLERANCE`.
    """
    ours = exported.begin(exported.encode(pixels))
    theirs = reference.begin(reference.encode(pixels))
    gap = _greatest_gap(theirs, ours, len(pixels), vocabulary_size)
    if not gap <= TOLERANCE:  # also where it is no number
        raise ExportError(
            f"the exported graphs give log-probabilities that differ from the checkpoint's by "
            f"{gap:.2g}, allowed are {TOLERANCE:g}; nothing was written: run the checkpoint by "
            "torch, and report the decoder and encoder"
        )
    return gap


def _greatest_gap(first: Decoding, second: Decoding, images: int, vocabulary_size: int) -> float:
    every = np.tile(np.arange(vocabulary_size), (images, 1))
    words = np.full((images, 1), START)
    parents = np.zeros((images, 1), dtype=np.int64)
    gap = 0.0
    for step in range(_STEPS):
        if step == _KEEP_AFTER and images > 1:
            kept = np.arange(1, images)
            words, parents, every = words[kept], parents[kept], every[kept]
            first.keep(kept)
            second.keep(kept)
        one, other = (each.step(words, parents, _BEAM, every) for each in (first, second))
        if not np.array_equal(np.isneginf(one.wanted), np.isneginf(other.wanted)):
            return np.inf
        possible = ~np.isneginf(one.wanted)
        gap = max(
            gap,
            _gap(one.wanted[possible], other.wanted[possible]),
            # By value: of nearly equal words the one or the other may come first.
            _gap(one.log_probs[one.log_probs > -np.inf], other.log_probs[one.log_probs > -np.inf]),
            0.0 if one.attention is None else _gap(one.attention, other.attention),
        )
        if step == 0:
            words = one.words[:, 0]
            parents = np.zeros(words.shape, dtype=np.int64)
        else:
            words = one.words[:, :, 0]
            parents = np.tile(np.roll(np.arange(words.shape[1]), 1), (len(words), 1))
    return gap


def _gap(first: Any, second: Any) -> float:
    difference = np.abs(np.asarray(first) - np.asarray(second))
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else np.inf


def agreement(
    first: Sequence[Sequence[Hypothesis]], second: Sequence[Sequence[Hypothesis]]
) -> Agreement:
    """Return how far the best captions of the same photographs agree."""
    pairs = [(one[0], other[0]) for one, other in zip(first, second, strict=True)]
    unequal = [pair for pair in pairs if pair[0].words != pair[1].words]
    near = sum(abs(one.score - other.score) <= NEAR_TIE for one, other in unequal)
    return Agreement(
        images=len(pairs),
        equal=len(pairs) - len(unequal),
        near_ties=near,
        different=len(unequal) - near,
    )


def captions_of(
    engine: Engine, features: Features, config: SearchConfig, batch_size: int = 50
) -> list[list[Hypothesis]]:
    """Return the best captions of many images, batch by batch."""
    found: list[list[Hypothesis]] = []
    for start in range(0, len(features), batch_size):
        found += engine.search(features.select(slice(start, start + batch_size)), config)
    return found
