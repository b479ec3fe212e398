"""Running average of the weights, which generalises better than the last ones.

Polyak and Juditsky 1992, in the exponential form. The average warms up, so that a short run is not
dominated by its random start.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_EVERY_STEPS = 4  # updating at each step would cost more time and hardly change the average


class WeightAverage:
    """The average of modules' parameters and buffers, kept beside them.

    Integer buffers, such as counters, are copied instead.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self._decay = decay
        self._live = {
            f"{name}.{key}": value
            for name, module in modules.items()
            for key, value in module.state_dict(keep_vars=True).items()
        }
        self._average = {key: value.detach().clone() for key, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if step % _EVERY_STEPS:
            return
        updates = step // _EVERY_STEPS
        decay = min(self._decay**_EVERY_STEPS, updates / (updates + 9))
        floats = [key for key, value in self._live.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self._average[key] for key in floats],
            [self._live[key].detach() for key in floats],
            1.0 - decay,
        )
        for key in self._live.keys() - set(floats):
            self._average[key].copy_(self._live[key])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the modules have the averaged weights within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        return self._average

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for key, value in self._average.items():
            value.copy_(tensors[key])

    @torch.no_grad()
    def _swap(self) -> None:
        for key, live in self._live.items():
            average = self._average[key]
            kept = live.detach().clone()
            live.detach().copy_(average)
            average.copy_(kept)
