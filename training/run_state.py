"""Where a run stands, and how `last/` keeps it so that a killed run goes on exactly.

`last/` is an ordinary checkpoint with the weights as they are, and beside them what only
training needs: the optimiser's moments, the generators, the averaged weights and the counts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from captioner.checkpoint import load_extra, save_checkpoint
from captioner.errors import TrainingError
from captioner.files import file_hash
from training.assembly import Parts
from training.averaging import WeightAverage
from training.optimisation import optimiser_tensors, restore_optimiser
from training.randomness import StepGenerators


@dataclass
class Interval:
    """Sums over some steps, such as those since the last line of the log."""

    steps: int = 0  # with a readable image
    loss: float = 0.0  # times tokens
    tokens: int = 0
    captions: int = 0
    seconds: float = 0.0


@dataclass
class Standing:
    """The counts of a run."""

    step: int = 0  # steps done
    validated_step: int = 0  # when the last validation was
    stale_validations: int = 0  # validations since the best one
    best_step: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)  # empty before the first validation
    seconds: float = 0.0  # of training and validation, over all processes
    metrics_bytes: int = 0  # length of the log
    interval: Interval = field(default_factory=Interval)

    def take(self, scores: Mapping[str, float]) -> bool:
        """Note a validation at this step; return whether it is the best one so far."""
        self.validated_step = self.step
        if self.best_scores and scores["CIDEr"] <= self.best_scores["CIDEr"]:
            self.stale_validations += 1
            return False
        self.stale_validations = 0
        self.best_step, self.best_scores = self.step, dict(scores)
        return True


@dataclass(frozen=True)
class Moving:
    """What changes from step to step beside the weights."""

    optimiser: torch.optim.Optimizer
    generators: StepGenerators
    average: WeightAverage | None


def save_weights(
    folder: Path, parts: Parts, standing: Standing, *, unchanged_encoder: Path | None, **extra: Any
) -> None:
    """Write a checkpoint of the weights that the modules have now."""
    epoch = standing.step / parts.batches.steps_per_epoch
    save_checkpoint(
        folder,
        encoder=parts.encoder,
        decoder=parts.decoder,
        vocabulary=parts.vocabulary,
        summary={
            "step": standing.step,
            "epoch": round(epoch, 4),
            "best_step": standing.best_step,
            "scores_val": standing.best_scores if standing.best_step == standing.step else {},
            "beam_size_val": parts.config.beam_size,
            "seconds": round(standing.seconds, 1),
            "data": _data(parts),
            "training": parts.config.to_json(),
        },
        link_encoder_from=None if parts.config.trains_encoder else unchanged_encoder,
        **extra,
    )


def save_last(
    folder: Path, parts: Parts, standing: Standing, moving: Moving, *, beside: Path
) -> None:
    """Write `last/`; an unchanged encoder is shared with the checkpoint `beside`, if there is one.

    Raises:
        StorageError: the disk is full; the previous `last/` is untouched.
    """
    tensors = {
        "optimiser": optimiser_tensors(moving.optimiser),
        "generators": moving.generators.state(),
    }
    if moving.average is not None:
        tensors["average"] = moving.average.tensors()
    save_weights(
        folder,
        parts,
        standing,
        unchanged_encoder=next((path for path in (folder, beside) if path.exists()), None),
        extra_json={"standing": {**asdict(standing), "data": _fingerprint(parts)}},
        extra_tensors=tensors,
    )


def restore(folder: Path, parts: Parts, moving: Moving) -> Standing:
    """Put back what `save_last` wrote, the weights of the modules excepted.

    Raises:
        CheckpointError: a file is missing or damaged.
        TrainingError: the data are not those that the run began with.
    """
    stored = load_extra(folder, "standing")
    if stored.pop("data") != _fingerprint(parts):
        raise TrainingError(
            f"{parts.dataset.json_path} or its readable images have changed since {folder} was "
            "written, so the run cannot go on exactly; restore them, or start a new run"
        )
    restore_optimiser(moving.optimiser, load_extra(folder, "optimiser"))
    moving.generators.restore(load_extra(folder, "generators"))
    if moving.average is not None:
        moving.average.restore(load_extra(folder, "average"))
    return Standing(**{**stored, "interval": Interval(**stored["interval"])})


def _data(parts: Parts) -> dict[str, Any]:
    dataset = parts.dataset
    return {
        "name": dataset.name,
        "json": str(dataset.json_path.resolve()),
        "images": str(dataset.images_dir.resolve()),
        "counts": dataset.counts(),
    }


def _fingerprint(parts: Parts) -> dict[str, Any]:
    return {
        "sha256": file_hash(parts.dataset.json_path),
        "training_images": parts.batches.num_images,
    }
