"""Backend `cpu`: the whole time loop in compiled code, the batch sliced over threads.

Each thread takes its rows of the batch from the first step to the last and never waits for
another; products, gates and their gradients are one pass over data that stays in its cache. A
wide input is the exception: its products span all steps, which PyTorch's library does best. How
it is done stands in source/, from tiles.h on. Functions are those of `captioner.lstm.backends`.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.hdetach.products import linear
from captioner.lstm.backends.torch_backend import follow_gate_gradients
from captioner.lstm.operands import (
    ForwardResults,
    Gradients,
    GradResults,
    Masks,
    Needs,
    Operands,
    Saved,
)
from captioner.native import buffers, library
from captioner.native.library import why_missing as missing

__all__ = ["HAS_PROJECTION", "backward", "forward", "missing", "unsupported", "workspace_shapes"]

HAS_PROJECTION = False
# Above this many bytes the packed weights and the sums of their gradients outgrow a core's cache,
# and the input's products are left to PyTorch.
OWN_PRODUCTS_BYTES = 1 << 20


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"computes in float32 and float64, and the tensors are {dtype}"
    return None


def workspace_shapes(
    steps: int, batch_size: int, hidden_size: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shapes of the gates and of the cell states, rows padded to whole vectors."""
    padded = _padded(hidden_size, torch.float32)
    return (steps, batch_size, 4 * padded), (steps + 1, batch_size, padded)


def forward(operands: Operands, *, save: bool) -> ForwardResults:
    x, h0, *_ = operands
    steps, batch_size, _ = x.shape
    size = h0.shape[1]
    gates_shape, cells_shape = workspace_shapes(steps, batch_size, size)
    is_projected = _leaves_input_to_torch(x, size)
    kept_gates = steps if save or is_projected else 1
    results = ForwardResults(
        outputs=buffers.empty((steps, batch_size, size), x.dtype),
        h_n=torch.empty_like(h0),
        c_n=torch.empty_like(h0),
        gates=buffers.empty((kept_gates, *gates_shape[1:]), x.dtype),
        cells=buffers.empty((steps + 1 if save else 2, *cells_shape[1:]), x.dtype),
    )
    if is_projected:
        _project(operands, results.gates)
    _call("forward", operands, is_projected=is_projected, is_kept=save, **results._asdict())
    if not save:
        return results._replace(gates=x.new_empty(0), cells=x.new_empty(0))
    return results


def backward(
    grads: GradResults, operands: Operands, saved: Saved, masks: Masks, needs: Needs
) -> Gradients:
    x, h0, _, w_ih, w_hh, *_ = operands
    size = h0.shape[1]
    is_projected = _leaves_input_to_torch(x, size)
    found = Gradients(h0=torch.empty_like(h0), c0=torch.empty_like(h0))
    grad_gates = None
    if is_projected:
        grad_gates = buffers.empty((*x.shape[:2], 4 * _padded(size, x.dtype)), x.dtype)
    else:
        if needs.x:
            found = found._replace(x=buffers.empty_like(x))
        if needs.w_ih or needs.w_hh or needs.bias:
            found = found._replace(
                w_ih=torch.empty_like(w_ih),
                w_hh=torch.empty_like(w_hh),
                bias=w_hh.new_empty(len(w_hh)),
            )
    keep, cell_keep = masks
    _call(
        "backward",
        operands,
        is_projected=is_projected,
        keep_per_sample=keep is not None and keep.dim() == 2,
        cell_keep_per_sample=cell_keep is not None and cell_keep.dim() == 2,
        grad_gates=grad_gates,
        **masks._asdict(),
        **saved._asdict(),
        **{
            f"grad_{name}": grad
            for name, grad in (*grads._asdict().items(), *found._asdict().items())
        },
    )
    if grad_gates is None:
        return found
    # What follows from the gradients of all gates, each in one product over all steps.
    padded = _padded(size, x.dtype)
    wide = operands._replace(w_ih=_widen(w_ih, size, padded))
    room = buffers.empty_like(x) if needs.x else None
    rest = follow_gate_gradients(grad_gates, wide, saved.outputs, needs, room)
    weights = {
        name: None if grad is None else _narrow(grad, size, padded)
        for name, grad in (("w_ih", rest.w_ih), ("w_hh", rest.w_hh), ("bias", rest.bias))
    }
    return found._replace(x=rest.x, **weights)


def _leaves_input_to_torch(x: Tensor, size: int) -> bool:
    return 4 * size * (size + x.shape[2]) * x.dtype.itemsize > OWN_PRODUCTS_BYTES


def _padded(size: int, dtype: torch.dtype) -> int:
    """Return the hidden size rounded up to whole vectors, as the compiled code does."""
    lanes = library.load().hdetach_vector_bytes() // dtype.itemsize
    return (size + lanes - 1) // lanes * lanes


def _widen(rows: Tensor, size: int, padded: int) -> Tensor:
    """Put zeros behind each gate's rows: [4 * size, ...] -> [4 * padded, ...]."""
    if padded == size:
        return rows
    wide = rows.new_zeros(4, padded, *rows.shape[1:])
    wide[:, :size] = rows.view(4, size, *rows.shape[1:])
    return wide.flatten(0, 1)


def _narrow(rows: Tensor, size: int, padded: int) -> Tensor:
    """Undo `_widen`."""
    if padded == size:
        return rows
    return rows.view(4, padded, *rows.shape[1:])[:, :size].flatten(0, 1)


def _project(operands: Operands, gates: Tensor) -> None:
    """Write what input and biases add to the gates of all steps to the front of `gates`."""
    x, w_ih, bias = operands.x, operands.w_ih, operands.bias
    size = w_ih.shape[0] // 4
    padded = _padded(size, x.dtype)
    flat = x.flatten(0, 1)
    target = gates.view(-1)[: flat.shape[0] * 4 * padded].view(-1, 4 * padded)
    wide = _widen(w_ih, size, padded)
    if operands.bf16_products:
        target.copy_(linear(flat, wide, None, operands.product_dtype))
        if bias is not None:
            target += _widen(bias, size, padded)
    elif bias is None:
        torch.mm(flat, wide.t(), out=target)
    else:
        torch.addmm(_widen(bias, size, padded), flat, wide.t(), out=target)


def _call(direction: str, operands: Operands, **values: Tensor | int | None) -> None:
    """Run the compiled pass for operands and values of these names, those of its C struct."""
    x = operands.x
    sizes = zip(("steps", "batch", "input"), x.shape, strict=True)
    name = f"hdetach_{direction}"
    call = library.pack_call(
        name,
        **dict(sizes),
        hidden=operands.h0.shape[1],
        threads=torch.get_num_threads(),
        **{**operands._asdict(), **values},
    )
    scratch = buffers.empty((library.function(f"{name}_scratch", x.dtype)(call),), x.dtype)
    library.function(name, x.dtype)(call, ctypes.c_void_p(scratch.data_ptr()))
