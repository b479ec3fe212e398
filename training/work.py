"""Interface between the run engine and what it trains.

`Run` (module `run`) handles resuming, saving, logging, interruption and validation. A `Work` has
data, model and loss: a captioner is one (`captioning.py`), a task of the paper with its recurrent
network another (`benchmarks/benchmark.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.plots import Curves
from training.run_folder import RunFolder
from training.run_state import Extras, RunState

Figures = dict[str, float]


class BatchLoss(NamedTuple):
    """The loss of a batch, and what it counts in the means of the log."""

    loss: Tensor  # scalar
    weight: int = 1
    captions: int = 0
    figures: Mapping[str, Tensor] = MappingProxyType({})  # scalars, logged beside the loss


@dataclass(frozen=True, kw_only=True)
class RunSchedule:
    """When a run logs, validates, saves and ends."""

    epochs: int
    steps_per_epoch: int
    log_every: int  # steps; the end of an epoch is logged too
    validate_every: int  # steps; the end of the run is validated too
    save_every: float  # seconds; every validation is saved too
    patience: int = 0  # validations without a better one that end the run; 0 is never
    minutes: float | None = None  # of all processes together

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def epochs_in(self, steps: int) -> float:
        return steps / self.steps_per_epoch


class Work(ABC):
    """A model, its data and its loss, as a run trains them.

    Batches of an epoch, and everything drawn, depend on the seed, the epoch and the generators
    alone, so that a run can be resumed at any step.
    """

    step_name: str = "step"  # in messages
    data_name: str  # what a resumed run must find unchanged, in messages
    gradient_remedy: str  # the flag that bounds the gradients
    checks_every_loss: bool  # waits for the device at each step; else a NaN shows at the next log
    costlier_from_step: int = 0  # a step costs more from here on
    schedule: RunSchedule
    score: str  # the figure of a validation that chooses the best model
    higher_is_better: bool = True
    latest_tie_wins: bool = False
    goal: float | None = None  # a score that ends the run
    curves: Curves
    parameters: Sequence[nn.Parameter]  # those that are trained
    optimiser: torch.optim.Optimizer
    generators: Mapping[str, torch.Generator]  # drawn from at every step
    facts: Mapping[str, Any]  # what `config.json` tells beside the configuration
    fingerprint: Mapping[str, Any]  # what of the data a resumed run must find again

    def close(self) -> None:  # noqa: B027 - not every work holds something open
        """Let go of files, threads and programs."""

    @abstractmethod
    def batches(self, epoch: int, *, start: int) -> Generator[Any]:
        """Yield the batches of an epoch, counted from 0, from number `start` on."""

    @abstractmethod
    def start_training(self, epoch: int) -> None:
        """Put the modules in training mode, as this epoch trains them."""

    @abstractmethod
    def loss(self, batch: Any, step: int) -> BatchLoss | None:
        """Return the loss of a batch at a step counted from 0; None where it has nothing."""

    @abstractmethod
    def update(self, step: int) -> None:
        """Move the weights by their gradients, at a step counted from 0."""

    def evaluating(self) -> AbstractContextManager[object]:
        """Return a context in which the modules have the weights that are validated and kept."""
        return nullcontext()

    @abstractmethod
    def validate(self, step: int, is_stopping: Callable[[], bool]) -> Figures | None:
        """Return the figures of the model after so many steps, in evaluation mode.

        None where `is_stopping` became true before the end.
        """

    def is_better(self, figures: Figures, best: Figures) -> bool:
        """Return whether a validation beats the best one so far."""
        score, highest = figures[self.score], best[self.score]
        return self.latest_tie_wins if score == highest else self._exceeds(score, highest)

    def reaches_goal(self, figures: Figures) -> bool:
        """Return whether a validation is as good as the run was asked to become."""
        score = figures[self.score]
        return self.goal is not None and (score == self.goal or self._exceeds(score, self.goal))

    def _exceeds(self, score: float, other: float) -> bool:
        return score > other if self.higher_is_better else score < other

    def describe(self, figures: Figures) -> str:
        """Return the figures of a validation in one line."""
        return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())

    def show(self, folder: RunFolder) -> None:  # noqa: B027 - not every work has such files
        """Write the files that show the last validation."""

    def log_figures(self) -> Figures:
        """Return what the log says beside the means of loss and figures."""
        return {}

    @abstractmethod
    def save(self, folder: Path, state: RunState, extras: Extras) -> None:
        """Write a checkpoint of the weights that the modules have now.

        Raises:
            StorageError: the disk is full; the previous checkpoint is untouched.
        """

    def load(self, folder: Path) -> None:  # noqa: B027 - see there
        """Give the modules the weights in a checkpoint, unless they were built from it."""

    def carried(self) -> dict[str, dict[str, Tensor]]:
        """Return what else goes on from step to step, in groups by name."""
        return {}

    def restore_carried(self, group: str, tensors: Mapping[str, Tensor]) -> None:
        """Put back a group that `carried` returned."""
        raise NotImplementedError(group)
