"""The tensors that travel between the operator of the h-detach LSTM and its backends.

T steps, B rows of the batch, I inputs, H hidden units, P the size of h: that of the projection, H
where there is none. All tensors are contiguous, of one floating dtype (never half precision) and
on one device, and their sizes have been checked, once for all backends: native code reads memory
by them. Only `lengths` is different: int64, on the CPU.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.errors import OptionError


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


class OperandError(OptionError, RuntimeError):
    """Tensors do not fit together; a `RuntimeError` as well, which is what `nn.LSTM` raises."""


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype in which autocast wants results of `x`; None where it stays out of it."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Return a context in which products keep the dtype of their operands."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def check_arguments(operands: Operands, masks: Masks) -> None:
    """Raise `OperandError` where sizes, devices or dtypes do not fit together.

    A weight that is None is a TypeError, as `nn.LSTM` raises it.

    Under autocast, x and the states may be of another floating dtype than the weights.
    """
    x, h0, c0, *_ = operands
    lengths = operands.lengths
    if x.dim() != 3 or x.shape[0] == 0 or x.shape[2] == 0:
        raise OperandError(
            f"x has shape {list(x.shape)}; it must be [T, B, I] with T and I at least 1"
        )
    for name, state in (("h0", h0), ("c0", c0)):
        if state.dim() != 2 or state.shape[1] == 0:
            raise OperandError(
                f"{name} has shape {list(state.shape)}; it must be [B, H] with H at least 1"
            )
    if not x.is_floating_point():
        raise OperandError(f"x is {x.dtype}; it must be floating point: convert it with .float()")
    (steps, batch_size, inputs), size = x.shape, h0.shape[1]
    cell_size = size if operands.w_hr is None else c0.shape[1]
    rows = 4 * cell_size
    shapes = (
        x.shape,
        (batch_size, size),
        (batch_size, cell_size),
        (rows, inputs),
        (rows, size),
        (rows,),
        (rows,),
        (size, cell_size),
    )
    mixed = autocast_dtype(x) is not None
    for name, one, shape in zip(Needs._fields, operands.tensors, shapes, strict=True):
        if one is None:
            if name in ("w_ih", "w_hh"):
                raise TypeError(
                    f"{name} is None; of the weights only biases and a projection can be None"
                )
            continue
        if one.shape != shape:
            raise OperandError(
                f"{name} has shape {list(one.shape)}; beside x {list(x.shape)} and h0 "
                f"{list(h0.shape)} it must be {list(shape)}"
            )
        if one.device != x.device or (one.dtype != x.dtype and not mixed):
            raise OperandError(
                f"{name} is {one.dtype} on {one.device} and x is {x.dtype} on {x.device}; "
                "they must be alike: convert one with .to()"
            )
    for name, mask in masks._asdict().items():
        if mask is not None and mask.shape != (steps,) and mask.shape != (steps, batch_size):
            raise OperandError(
                f"{name} has shape {list(mask.shape)}; it must be [T] = [{steps}] or [T, B] = "
                f"[{steps}, {batch_size}], as sample_keep draws it"
            )
    if lengths is not None and (lengths.shape != (batch_size,) or lengths.device.type != "cpu"):
        raise OperandError(
            f"lengths has shape {list(lengths.shape)} on {lengths.device}; it must be "
            f"[B] = [{batch_size}] on the CPU"
        )


def check_values(steps: int, masks: Masks, lengths: Tensor | None) -> None:
    """Raise `OperandError` for masks outside [0, 1] and for lengths that are no lengths.

    To be asked when the operator runs, because tracing knows no values. Masks on a GPU are not
    looked at: that would wait for the device at every call.
    """
    for name, mask in masks._asdict().items():
        if mask is not None and mask.device.type == "cpu":
            outside = ~((mask >= 0.0) & (mask <= 1.0))
            if outside.any():
                found = mask[outside][0].item()
                raise OperandError(f"{name} holds {found}; its values lie between 0 and 1")
    if lengths is not None and len(lengths) > 0:
        in_order = (lengths[1:] <= lengths[:-1]).all()
        if not in_order or lengths[0] > steps or lengths[-1] < 1:
            raise OperandError(
                f"lengths is {lengths.tolist()}; it must be decreasing, between 1 and T = {steps}"
            )
