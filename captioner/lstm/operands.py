"""What travels between the operator of the h-detach LSTM and its backends, in named bundles.

T steps, B rows of the batch, I inputs, H hidden units; all tensors are contiguous, of one floating
dtype (never half precision) and on one device, and their sizes have been checked. Only `lengths`
is different: int64, on the CPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """A sequence, the state before it and the weights."""

    x: Tensor  # [T, B, I]
    h0: Tensor  # [B, H]
    c0: Tensor  # [B, H]
    w_ih: Tensor  # [4H, I]
    w_hh: Tensor  # [4H, H]
    b_ih: Tensor | None  # [4H]
    b_hh: Tensor | None  # [4H]
    # [B], decreasing: row r takes part in step t while t < lengths[r], its outputs after that are
    # zero, and its h_n and c_n are those of its last step.
    lengths: Tensor | None = None
    bf16_products: bool = False  # operands of the large products are rounded to bfloat16

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


class Passed(NamedTuple):
    """What a forward pass leaves; the workspaces' contents are the backend's affair."""

    outputs: Tensor  # [T, B, H]
    h_n: Tensor  # [B, H]
    c_n: Tensor  # [B, H]
    gates: Tensor  # workspace
    cells: Tensor  # workspace


class Saved(NamedTuple):
    """The part of `Passed` that the backward pass reads."""

    outputs: Tensor
    gates: Tensor
    cells: Tensor


class Masks(NamedTuple):
    """What multiplies the gradient that leaves each step through h and c: [T] or [T, B]."""

    keep: Tensor | None
    cell_keep: Tensor | None


class Incoming(NamedTuple):
    """The gradients of a forward pass's results; None is zero everywhere, but not all three."""

    outputs: Tensor | None
    h_n: Tensor | None
    c_n: Tensor | None


class Needs(NamedTuple):
    """Which gradients are asked for; `bias` is that of either bias, which are the same."""

    x: bool
    h0: bool
    c0: bool
    w_ih: bool
    w_hh: bool
    bias: bool


class Gradients(NamedTuple):
    """The gradients of the operands; what nobody needs may be None."""

    x: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    w_ih: Tensor | None
    w_hh: Tensor | None
    bias: Tensor | None
