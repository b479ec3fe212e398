"""The tensors that travel between the operator of the h-detach LSTM and its backends.

T steps, B rows of the batch, I inputs, H hidden units, P the size of h: that of the projection, H
where there is none. All tensors are contiguous, of one floating dtype (never half precision) and
on one device, and their sizes have been checked. Only `lengths` is different: int64, on the CPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """A sequence, the state before it and the weights."""

    x: Tensor  # [T, B, I]
    h0: Tensor  # [B, P]
    c0: Tensor  # [B, H]
    w_ih: Tensor  # [4H, I]
    w_hh: Tensor  # [4H, P]
    b_ih: Tensor | None = None  # [4H]
    b_hh: Tensor | None = None  # [4H]
    w_hr: Tensor | None = None  # [P, H]; None: no projection
    # [B], decreasing: row r takes part in step t while t < lengths[r], its outputs after that are
    # zero, and its h_n and c_n are those of its last step.
    lengths: Tensor | None = None
    bf16_products: bool = False  # operands of the large products are rounded to bfloat16

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The operands that may need a gradient, those of `Needs`."""
        return self[:8]

    @property
    def bias(self) -> Tensor | None:
        """Both biases together: [4H]."""
        if self.b_ih is None or self.b_hh is None:
            return self.b_hh if self.b_ih is None else self.b_ih
        return self.b_ih + self.b_hh

    @property
    def product_dtype(self) -> torch.dtype | None:
        """The dtype of the large products' operands; None is their own."""
        return torch.bfloat16 if self.bf16_products else None


class ForwardResults(NamedTuple):
    """What a forward pass leaves; the workspaces' contents are the backend's affair."""

    outputs: Tensor  # [T, B, P]
    h_n: Tensor  # [B, P]
    c_n: Tensor  # [B, H]
    gates: Tensor  # workspace
    cells: Tensor  # workspace


class Saved(NamedTuple):
    """The part of `ForwardResults` that the backward pass reads."""

    outputs: Tensor
    gates: Tensor
    cells: Tensor


class Masks(NamedTuple):
    """What multiplies the gradient that leaves each step through h and c: [T] or [T, B]."""

    keep: Tensor | None
    cell_keep: Tensor | None


class GradResults(NamedTuple):
    """The gradients of a forward pass's results; None is zero everywhere, but not all three."""

    outputs: Tensor | None
    h_n: Tensor | None
    c_n: Tensor | None


class Needs(NamedTuple):
    """Which operands need a gradient."""

    x: bool = False
    h0: bool = False
    c0: bool = False
    w_ih: bool = False
    w_hh: bool = False
    b_ih: bool = False
    b_hh: bool = False
    w_hr: bool = False

    @property
    def bias(self) -> bool:
        return self.b_ih or self.b_hh


class Gradients(NamedTuple):
    """The gradients of the operands; what nobody needs may be None."""

    x: Tensor | None = None
    h0: Tensor | None = None
    c0: Tensor | None = None
    w_ih: Tensor | None = None
    w_hh: Tensor | None = None
    bias: Tensor | None = None  # of either bias, which are the same
    w_hr: Tensor | None = None
