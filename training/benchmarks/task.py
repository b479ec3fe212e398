"""Interface of a benchmark task, and its network: a recurrent method under a linear layer.

Shapes: T steps, B sequences, I inputs, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.methods import RecurrentMethod, State, draw_uniform
from training.work import Figures

Batch = tuple[Tensor, Tensor]  # inputs and targets


class SequenceModel(nn.Module):
    """A recurrent method, and the linear layer that makes class scores of what it returns."""

    def __init__(
        self, method: RecurrentMethod, classes: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.method = method
        self.head = nn.Linear(method.output_size, classes)
        draw_uniform(self.head, method.output_size**-0.5, generator)

    def step_logits(
        self, x: Tensor, state: State | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Return scores at every step, and the state: x [T, B, I] -> [T, B, C]."""
        outputs, state = self.method(x, state, generator=generator)
        return self.head(outputs), state

    def sequence_logits(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return scores for whole sequences: x [T, B, I] -> [B, C]."""
        outputs, state = self.method(x, generator=generator)
        return self.head(self.method.summary(outputs, state))


class Task(ABC):
    """Data, loss and measure of a benchmark.

    Training batches of an epoch depend on the seed and the epoch alone, so that a run can be
    resumed anywhere.
    """

    name: str
    input_size: int
    classes: int
    updates_per_epoch: int
    score = "accuracy"  # the figure of the validation that chooses the best model
    higher_is_better = True
    latest_tie_wins = False  # else the earliest of those that score alike

    def build_model(self, method: RecurrentMethod, generator: torch.Generator) -> SequenceModel:
        return SequenceModel(method, self.classes, generator=generator)

    @abstractmethod
    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0, from number `start` on."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a training batch; masks are drawn from `generator`."""

    @abstractmethod
    def validate(self, model: Any) -> Figures:
        """Return figures of a model in evaluation mode, `self.score` among them."""

    def tests(self) -> Mapping[str, Callable[[Any], Figures]]:
        """Return by name what the best model is asked once, at the end of the run."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Return what of the data, beyond the configuration, a resumed run must find again."""
        return {}

    def memory(self) -> dict[str, Tensor]:
        """Return what the task itself carries from one update to the next."""
        return {}

    def restore_memory(self, memory: Mapping[str, Tensor]) -> None:
        """Put back what `memory` returned."""
        assert not memory
