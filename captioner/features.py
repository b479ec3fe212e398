"""Features of images, as encoders give them and decoders read them.

A carrier with names, so that what a decoder looks at can grow beyond the grid without a change in
what lies between: a new kind of features is an optional field here. The arrays are those of the
engine that made them, all of one kind: torch's tensors or numpy's arrays. Importing this does not
import torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of B images; every array has the image as its first dimension."""

    grid: "Tensor | Any"  # [B, P, D], position p of a grid of side n lies in row p // n
    attributes: "Tensor | Any" = None
    """[B, A] probabilities of a detector's attributes, where they are given; mostly None.

    Captions without a photograph are trained on these alone: their grid is [B, 0, D].
    """

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.grid)

    def select(self, images: "Tensor | np.ndarray | slice | Sequence[int]") -> Self:
        """Return the features of some of the images: numbers [n], or a slice."""
        return self._each(lambda values: values[images])

    def to(self, device: "torch.device | str") -> Self:
        """Return the features as tensors on a device."""
        import torch

        return self._each(lambda values: torch.as_tensor(values).to(device, non_blocking=True))

    def numpy(self) -> Self:
        """Return the features as arrays of numpy."""
        return self._each(
            lambda values: (
                values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
            )
        )

    def float(self) -> Self:
        """Return the features in float32."""
        return self._each(
            lambda values: (
                values.astype(np.float32, copy=False)
                if isinstance(values, np.ndarray)
                else values.float()
            )
        )

    def put(self, images: list[int], new: Self) -> None:
        """Overwrite the features of some of the images, in place."""
        for name, values in self._present().items():
            values[images] = getattr(new, name)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Return the features of all images of the parts, at least one, in their order."""
        return cls(
            **{name: _joined([getattr(one, name) for one in parts]) for name in parts[0]._present()}
        )

    @classmethod
    def in_order(cls, parts: Sequence[Self], images: list[int]) -> Self:
        """Return `cat` of the parts, whose images have these numbers, in the order of these."""
        return cls.cat(parts).select(np.argsort(images))

    def _present(self) -> dict[str, Any]:
        return {name: values for name, values in vars(self).items() if values is not None}

    def _each(self, change: Callable[[Any], Any]) -> Self:
        return type(self)(**{name: change(values) for name, values in self._present().items()})


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(list(parts))
