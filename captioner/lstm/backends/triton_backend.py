"""Backend `triton`: one launch for all steps forward, one backward, library products around them.

The input is projected, and weights and input get their gradients, in single large products; what
lies between is in `triton_kernels`. Products follow torch's own setting of TF32. So far this has
run in Triton's interpreter and been compiled for GPUs, and has not been timed on one.
"""

import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from captioner.hdetach.products import linear, weight_gradient
from captioner.lstm.backends.torch_backend import last_of
from captioner.lstm.operands import (
    Gradients,
    Incoming,
    Masks,
    Needs,
    Operands,
    Passed,
    Saved,
)

ROWS_AT_ONCE = 16  # the smallest tile of a product on tensor cores, so the most programs
UNITS_AT_ONCE = 64
DEPTH = 32
WARPS = 4


@cache
def missing() -> str | None:
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


def unsupported(device: torch.device, dtype: torch.dtype, hidden_size: int) -> str | None:  # noqa: ARG001
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"runs on a GPU, and the tensors are on {device}"
    if dtype != torch.float32:
        return f"computes in float32, and the tensors are {dtype}"
    return None


def workspace_shapes(
    steps: int,
    batch_size: int,
    input_size: int,  # noqa: ARG001
    hidden_size: int,
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shapes of the squashed gates and of the cell state after each step."""
    return (steps, batch_size, 4 * hidden_size), (steps, batch_size, hidden_size)


def forward(operands: Operands, *, save: bool) -> Passed:
    from captioner.lstm.backends.triton_kernels import forward_kernel

    x, h0, c0, w_ih, w_hh, _, _, lengths, _ = operands
    steps, batch_size, _ = x.shape
    size = h0.shape[1]
    gates = linear(x, w_ih, operands.bias, operands.product_dtype)
    outputs = _states(x, steps, size, lengths)
    cells = _states(x, steps if save else 1, size, lengths)
    forward_kernel[_grid(batch_size)](
        gates,
        h0,
        c0,
        w_hh.t().contiguous(),
        outputs,
        cells,
        h0 if lengths is None else lengths.to(x.device),
        steps,
        batch_size,
        batch_size * size if save else 0,
        size=size,
        packed=lengths is not None,
        **_tiles(size),
    )
    h_n = last_of(outputs, lengths)
    if save:
        return Passed(outputs, h_n, last_of(cells, lengths), gates, cells)
    return Passed(outputs, h_n, cells[0], x.new_empty(0), x.new_empty(0))


def backward(
    incoming: Incoming, operands: Operands, saved: Saved, masks: Masks, needs: Needs
) -> Gradients:
    from captioner.lstm.backends.triton_kernels import backward_kernel

    x, h0, c0, w_ih, w_hh, _, _, lengths, _ = operands
    outputs, gates, cells = saved
    grad_outputs, grad_h_n, grad_c_n = incoming
    keep, cell_keep = masks
    dtype = operands.product_dtype
    steps, batch_size, _ = x.shape
    size = h0.shape[1]
    grad_hidden = torch.zeros_like(h0) if grad_h_n is None else grad_h_n.clone()
    grad_cell = torch.zeros_like(c0) if grad_c_n is None else grad_c_n.clone()
    grad_gates = _states(x, steps, 4 * size, lengths)
    backward_kernel[_grid(batch_size)](
        gates,
        c0,
        cells,
        h0 if grad_outputs is None else grad_outputs,
        grad_hidden,
        grad_cell,
        grad_gates,
        w_hh,
        h0 if keep is None else keep,
        h0 if cell_keep is None else cell_keep,
        h0 if lengths is None else lengths.to(x.device),
        steps,
        batch_size,
        size=size,
        packed=lengths is not None,
        has_grad_outputs=grad_outputs is not None,
        keep_width=0 if keep is None else keep.dim(),
        cell_keep_width=0 if cell_keep is None else cell_keep.dim(),
        **_tiles(size),
    )
    flat = grad_gates.flatten(0, 1)
    grad_w_hh = None
    if needs.w_hh:
        grad_w_hh = weight_gradient(grad_gates[0], h0, dtype)
        if steps > 1:
            earlier = outputs[:-1].flatten(0, 1)
            grad_w_hh += weight_gradient(grad_gates[1:].flatten(0, 1), earlier, dtype)
    return Gradients(
        linear(grad_gates, w_ih.t(), None, dtype) if needs.x else None,
        grad_hidden,
        grad_cell,
        weight_gradient(flat, x.flatten(0, 1), dtype) if needs.w_ih else None,
        grad_w_hh,
        flat.sum(0) if needs.bias else None,
    )


def _states(x: Tensor, steps: int, size: int, lengths: Tensor | None) -> Tensor:
    """Return room for a state per step; where rows end early nothing writes, so it is zero."""
    make = torch.empty if lengths is None else torch.zeros
    return make((steps, x.shape[1], size), dtype=x.dtype, device=x.device)


def _grid(batch_size: int) -> tuple[int]:
    return (-(-batch_size // ROWS_AT_ONCE),)


def _tiles(size: int) -> dict[str, Any]:
    units = UNITS_AT_ONCE
    while units >= 2 * size and units > 16:
        units //= 2
    return {
        "rows_at_once": ROWS_AT_ONCE,
        "units_at_once": units,
        "depth": DEPTH,
        "precision": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        "num_warps": WARPS,
    }
