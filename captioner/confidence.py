"""Confidence: the chance that a caption agrees with people's, from the probabilities of its words.

The probability of exactly these words is small however good a caption is. What a reader wants to
know is whether people would have said so. People differ: each human caption of a photograph is
scored by CIDEr-D against the other ones of that photograph, and the median of these scores, over a
data set, is the bar. The confidence in a caption is the chance that it would pass the bar, scored
in the same way against as many human captions.

It is a logistic curve (Platt 1999) over two figures that every search has: the log-probability of
the caption and its number of tokens. `captioner calibrate` fits it on photographs that were not
trained on and stores it with the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from captioner.errors import CheckpointError
from captioner.files import carry_over, file_hash, folder_written_aside, read_json, write_json
from captioner.hashed_folder import HASHES, read_hashes, verified

CONFIDENCE = "confidence.json"
FORMAT_VERSION = 1
FIGURES = ("log_prob", "tokens")


@dataclass(frozen=True, kw_only=True)
class ConfidenceCurve:
    """The curve of one model, with how it was fitted and how well it held."""

    weights: tuple[float, ...]  # of `FIGURES`
    bias: float
    fitted: Mapping[str, Any] = field(default_factory=dict)  # for people: data, measures, bar

    def confidence(self, token_log_probs: Sequence[float]) -> float:
        """Return the chance for a caption, from the log-probabilities of its words and its end."""
        logit = self.bias + math.fsum(
            weight * figure
            for weight, figure in zip(self.weights, figures_of(token_log_probs), strict=True)
        )
        return 1.0 / (1.0 + math.exp(-min(max(logit, -500.0), 500.0)))

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "weights": dict(zip(FIGURES, self.weights, strict=True)),
            "bias": self.bias,
            "fitted": dict(self.fitted),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return what `to_json` wrote; raise KeyError, TypeError or ValueError for all else."""
        if value["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {value['format_version']!r}")
        numbers = [*(float(value["weights"][name]) for name in FIGURES), float(value["bias"])]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a weight is no number")
        return cls(weights=tuple(numbers[:-1]), bias=numbers[-1], fitted=dict(value["fitted"]))


def figures_of(token_log_probs: Sequence[float]) -> tuple[float, ...]:
    """Return the figures of a caption that its confidence depends on, as `FIGURES` names them."""
    return (math.fsum(token_log_probs), float(len(token_log_probs)))


def read_confidence_curve(folder: Path) -> ConfidenceCurve | None:
    """Return the curve of the model in a folder; None where it has none.

    Raises:
        CheckpointError: it is damaged, or was written by a later version.
    """
    path = folder / CONFIDENCE
    if not path.is_file():
        return None
    verified(folder, read_hashes(folder, (CONFIDENCE,)), CONFIDENCE)
    value = read_json(path, "the confidence curve of the model", CheckpointError)
    try:
        return ConfidenceCurve.from_json(value)
    except (KeyError, OverflowError, TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{path} cannot be used ({type(problem).__name__}: {problem}); fit it again: "
            f"captioner calibrate {folder} --data DATA"
        ) from problem


def store_confidence_curve(folder: Path, curve: ConfidenceCurve) -> None:
    """Put a curve into the folder of a model, in place of the one that it may have.

    All files but the curve and the list of hashes stay as they are.

    Raises:
        CheckpointError: the folder is no model's, or one of its files is damaged.
        StorageError: the disk is full or not writable; the folder is untouched.
    """
    hashes = read_hashes(folder, ())
    for name in hashes.keys() - {CONFIDENCE}:
        verified(folder, hashes, name)
    with folder_written_aside(folder) as aside:
        carry_over(folder, aside, all_but={CONFIDENCE, HASHES})
        write_json(aside / CONFIDENCE, curve.to_json())
        # Files that the model's list does not have, such as notes, do not get into it here either.
        listed = {**hashes, CONFIDENCE: file_hash(aside / CONFIDENCE)}
        write_json(aside / HASHES, dict(sorted(listed.items())))
