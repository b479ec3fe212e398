"""Features of images, as encoders give them and decoders read them.

A carrier with names, so that what a decoder looks at can grow beyond the grid without a change in
what lies between: a new kind of features is an optional field here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of B images; every tensor has the image as its first dimension."""

    grid: Tensor  # [B, P, D], position p of a grid of side n lies in row p // n

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.grid)

    @property
    def device(self) -> torch.device:
        return self.grid.device

    def select(self, images: Tensor | slice) -> Self:
        """Return the features of some of the images: numbers [n], or a slice."""
        return self._each(lambda values: values[images])

    def to(self, device: torch.device) -> Self:
        return self._each(lambda values: values.to(device, non_blocking=True))

    def float(self) -> Self:
        return self._each(Tensor.float)

    def put(self, images: list[int], new: Self) -> None:
        """Overwrite the features of some of the images, in place."""
        for name, values in vars(self).items():
            if values is not None:
                values[images] = getattr(new, name)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Return the features of all images of the parts, at least one, in their order."""
        names = [name for name, values in vars(parts[0]).items() if values is not None]
        return cls(**{name: torch.cat([getattr(one, name) for one in parts]) for name in names})

    @classmethod
    def in_order(cls, parts: Sequence[Self], images: list[int]) -> Self:
        """Return `cat` of the parts, whose images have these numbers, in the order of these."""
        joined = cls.cat(parts)
        return joined.select(torch.tensor(images, device=joined.device).argsort())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        present = {name: values for name, values in vars(self).items() if values is not None}
        return type(self)(**{name: change(values) for name, values in present.items()})
