"""Where a run of a benchmark stands, and the checkpoints that keep it.

`best/` and `last/` are folders of safetensors and JSON as those of a captioner. `last/` also
holds what only training needs, so that a killed run goes on exactly.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from captioner.errors import CheckpointError, TrainingError
from captioner.files import read_json, write_json
from captioner.hashed_folder import (
    hashed_folder_written_aside,
    read_extra,
    read_hashes,
    verified,
    write_extras,
    write_tensors,
)
from training.benchmarks.config import Experiment
from training.benchmarks.task import Figures, Task
from training.optimisation import optimiser_tensors, restore_optimiser

_FORMAT = 1
_MODEL, _WEIGHTS = "model.json", "model.safetensors"
_OWN_FILES = (_MODEL, _WEIGHTS)


@dataclass
class Standing:
    """The counts of a run."""

    update: int = 0  # updates done
    validated_update: int = 0  # when the last validation was
    reached: int = 0  # validations running that were as good as --stop-at
    best_update: int = 0
    best: Figures = field(default_factory=dict)  # empty before the first validation
    seconds: float = 0.0  # of training and validation, over all processes
    metrics_bytes: int = 0  # length of the log
    interval_updates: int = 0  # since the last line of the log
    interval_loss: float = 0.0  # their sum

    def take(self, figures: Figures, task: Task, goal: float | None) -> bool:
        """Note a validation at this update; return whether it is the best one so far."""
        self.validated_update = self.update
        score = figures[task.score]
        self.reached = self.reached + 1 if goal is not None and task.reaches(score, goal) else 0
        if self.best and not task.is_better(score, self.best[task.score]):
            return False
        self.best_update, self.best = self.update, dict(figures)
        return True


@dataclass(frozen=True)
class Trained:
    """What training changes."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    masks: torch.Generator


def save_model(
    folder: Path,
    model: nn.Module,
    task: Task,
    experiment: Experiment,
    standing: Standing,
    **extra: Any,
) -> None:
    """Write a checkpoint of the weights that the model has now.

    Raises:
        StorageError: the disk is full; the previous checkpoint is untouched.
    """
    with hashed_folder_written_aside(folder) as aside:
        description = {
            "format_version": _FORMAT,
            "task": task.name,
            "config": experiment.to_json(),
            "update": standing.update,
            "epoch": standing.update / task.updates_per_epoch,
            "validation": standing.best if standing.best_update == standing.update else {},
        }
        write_json(aside / _MODEL, description)
        write_tensors(aside / _WEIGHTS, model.state_dict())
        write_extras(aside, extra.get("json_values"), extra.get("tensors"))


def load_model(folder: Path, model: nn.Module, task: Task, experiment: Experiment) -> None:
    """Give the model the weights in a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or it is another task's or model's.
    """
    hashes = read_hashes(folder, _OWN_FILES)
    description = read_json(
        verified(folder, hashes, _MODEL), "the checkpoint's description", CheckpointError
    )
    found = description.get("task"), description.get("config", {}).get("model")
    wanted = task.name, experiment.config.model
    if found != wanted:
        raise CheckpointError(
            f"{folder} holds the model {found[1]} for {found[0]}, and this run's is {wanted[1]} "
            f"for {wanted[0]}; put its own checkpoint back, or start a new run"
        )
    try:
        model.load_state_dict(load_file(verified(folder, hashes, _WEIGHTS)))
    except (RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())
        raise CheckpointError(
            f"the weights in {folder} are those of another model ({reason[:200]}); put the run's "
            "own checkpoint back, or start a new run"
        ) from problem


def save_last(
    folder: Path, task: Task, experiment: Experiment, standing: Standing, trained: Trained
) -> None:
    """Write `last/`.

    Raises:
        StorageError: the disk is full; the previous `last/` is untouched.
    """
    save_model(
        folder,
        trained.model,
        task,
        experiment,
        standing,
        json_values={"standing": {**asdict(standing), "data": task.fingerprint()}},
        tensors={
            "optimiser": optimiser_tensors(trained.optimiser),
            "generators": {"masks": trained.masks.get_state()},
            "memory": task.memory(),
        },
    )


def restore(folder: Path, task: Task, experiment: Experiment, trained: Trained) -> Standing:
    """Put back what `save_last` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or it is another model's.
        TrainingError: the data are not those that the run began with.
    """
    load_model(folder, trained.model, task, experiment)
    hashes = read_hashes(folder, _OWN_FILES)
    stored: Mapping[str, Any] = read_extra(folder, hashes, "standing")
    if stored["data"] != task.fingerprint():
        raise TrainingError(
            f"the data of {task.name} have changed since {folder} was written, so the run cannot "
            "go on exactly; restore them, or start a new run"
        )
    restore_optimiser(trained.optimiser, read_extra(folder, hashes, "optimiser"))
    state = read_extra(folder, hashes, "generators")["masks"]
    if state.shape == trained.masks.get_state().shape:
        trained.masks.set_state(state)  # else the run goes on upon another device
    task.restore_memory(read_extra(folder, hashes, "memory"))
    return Standing(**{name: value for name, value in stored.items() if name != "data"})
