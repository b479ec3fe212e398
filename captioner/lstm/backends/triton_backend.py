"""Backend `triton`: one launch for all steps forward, one backward, library products around them.

The input is projected, and weights and input get their gradients, in single large products; what
lies between is in `triton_kernels`. Products follow torch's own setting of TF32. So far this has
run in Triton's interpreter and been compiled for GPUs, and has not been timed on one.
"""

import importlib.util
import os
from functools import cache
from typing import Any

import torch

from captioner.hdetach.products import linear
from captioner.lstm.backends.torch_backend import (
    follow_gate_gradients,
    last_of,
    new_states,
    workspace_shapes,
)
from captioner.lstm.operands import (
    ForwardResults,
    Gradients,
    GradResults,
    Masks,
    Needs,
    Operands,
    Saved,
)

__all__ = ["HAS_PROJECTION", "backward", "forward", "missing", "unsupported", "workspace_shapes"]

HAS_PROJECTION = False
ROWS_AT_ONCE = 16  # the smallest tile of a product on tensor cores, so the most programs
UNITS_AT_ONCE = 64
DEPTH = 32
WARPS = 4


@cache
def missing() -> str | None:
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"runs on a GPU, and the tensors are on {device}"
    if dtype != torch.float32:
        return f"computes in float32, and the tensors are {dtype}"
    return None


def forward(operands: Operands, *, save: bool) -> ForwardResults:
    from captioner.lstm.backends.triton_kernels import forward_kernel

    x, h0, c0, w_ih, w_hh, *_ = operands
    lengths = operands.lengths
    steps, batch_size, _ = x.shape
    size = h0.shape[1]
    gates = linear(x, w_ih, operands.bias, operands.product_dtype)
    outputs = new_states(x, steps, size, lengths)
    cells = new_states(x, steps if save else 1, size, lengths)
    forward_kernel[grid(batch_size)](
        gates,
        h0,
        c0,
        w_hh.t().contiguous(),
        outputs,
        cells,
        h0 if lengths is None else lengths.to(x.device),
        steps,
        batch_size,
        batch_size,
        batch_size * size if save else 0,
        size=size,
        packed=lengths is not None,
        **tiles(size),
    )
    h_n = last_of(outputs, lengths)
    if save:
        return ForwardResults(outputs, h_n, last_of(cells, lengths), gates, cells)
    return ForwardResults(outputs, h_n, cells[0], x.new_empty(0), x.new_empty(0))


def backward(
    grads: GradResults, operands: Operands, saved: Saved, masks: Masks, needs: Needs
) -> Gradients:
    from captioner.lstm.backends.triton_kernels import backward_kernel

    x, h0, c0, _, w_hh, *_ = operands
    lengths = operands.lengths
    keep, cell_keep = masks
    steps, batch_size, _ = x.shape
    size = h0.shape[1]
    grad_hidden = torch.zeros_like(h0) if grads.h_n is None else grads.h_n.clone()
    grad_cell = torch.zeros_like(c0) if grads.c_n is None else grads.c_n.clone()
    grad_gates = new_states(x, steps, 4 * size, lengths)
    backward_kernel[grid(batch_size)](
        saved.gates,
        c0,
        saved.cells,
        h0 if grads.outputs is None else grads.outputs,
        grad_hidden,
        grad_cell,
        grad_gates,
        w_hh,
        h0 if keep is None else keep,
        h0 if cell_keep is None else cell_keep,
        h0 if lengths is None else lengths.to(x.device),
        steps,
        batch_size,
        batch_size,
        size=size,
        packed=lengths is not None,
        has_grad_outputs=grads.outputs is not None,
        keep_width=0 if keep is None else keep.dim(),
        cell_keep_width=0 if cell_keep is None else cell_keep.dim(),
        **tiles(size),
    )
    found = follow_gate_gradients(grad_gates, operands, saved.outputs, needs)
    return found._replace(h0=grad_hidden, c0=grad_cell)


def grid(rows: int, models: int = 1) -> tuple[int, int]:
    """Return the programs of a launch: for the rows of a model, and for models."""
    return -(-rows // ROWS_AT_ONCE), models


def tiles(size: int) -> dict[str, Any]:
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
