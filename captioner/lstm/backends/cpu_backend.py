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

from captioner.hdetach.products import linear, weight_gradient
from captioner.lstm.operands import (
    Gradients,
    Incoming,
    Masks,
    Needs,
    Operands,
    Passed,
    Saved,
)
from captioner.native import buffers, library

# Above this many bytes the packed weights and the sums of their gradients outgrow a core's cache,
# and the input's products are left to PyTorch.
OWN_PRODUCTS_BYTES = 1 << 20

_SIZES = ("steps", "batch", "input", "hidden", "threads")
_FORWARD = (
    *(*_SIZES, "is_projected", "is_kept", "lengths"),
    *("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "outputs", "h_n", "c_n", "gates", "cells"),
)
_BACKWARD = (
    *(*_SIZES, "is_projected"),
    *("keep_per_sample", "cell_keep_per_sample", "lengths", "keep", "cell_keep"),
    *("grad_outputs", "grad_h_n", "grad_c_n"),
    *("x", "h0", "w_ih", "w_hh", "outputs", "gates", "cells", "grad_gates"),
    *("grad_x", "grad_h0", "grad_c0", "grad_w_ih", "grad_w_hh", "grad_bias"),
)


def missing() -> str | None:
    return library.obstacle()


def unsupported(device: torch.device, dtype: torch.dtype, hidden_size: int) -> str | None:  # noqa: ARG001
    if device.type != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"computes in float32 and float64, and the tensors are {dtype}"
    return None


def workspace_shapes(
    steps: int,
    batch_size: int,
    input_size: int,  # noqa: ARG001
    hidden_size: int,
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shapes of the gates and of the cell states, rows padded to whole vectors."""
    lanes = library.at_hand().vector_bytes // 4
    padded = (hidden_size + lanes - 1) // lanes * lanes
    return (steps, batch_size, 4 * padded), (steps + 1, batch_size, padded)


def forward(operands: Operands, *, save: bool) -> Passed:
    x, h0, *_ = operands
    steps, batch_size, inputs = x.shape
    size = h0.shape[1]
    gates_shape, cells_shape = workspace_shapes(steps, batch_size, inputs, size)
    is_projected = _leaves_input_to_torch(x, size)
    kept_gates = steps if save or is_projected else 1
    passed = Passed(
        outputs=buffers.empty((steps, batch_size, size), x.dtype),
        h_n=torch.empty_like(h0),
        c_n=torch.empty_like(h0),
        gates=buffers.empty((kept_gates, *gates_shape[1:]), x.dtype),
        cells=buffers.empty((steps + 1 if save else 2, *cells_shape[1:]), x.dtype),
    )
    if is_projected:
        _project(operands, passed.gates)
    values = {**operands._asdict(), **passed._asdict()}
    _call("forward", _FORWARD, operands, is_projected=is_projected, is_kept=save, **values)
    if not save:
        return passed._replace(gates=x.new_empty(0), cells=x.new_empty(0))
    return passed


def backward(
    incoming: Incoming, operands: Operands, saved: Saved, masks: Masks, needs: Needs
) -> Gradients:
    x, h0, _, w_ih, w_hh, *_ = operands
    is_projected = _leaves_input_to_torch(x, h0.shape[1])
    grads = Gradients(None, torch.empty_like(h0), torch.empty_like(h0), None, None, None)
    grad_gates = None
    if is_projected:
        row = _padded(h0.shape[1], x.dtype) * 4
        grad_gates = buffers.empty((*x.shape[:2], row), x.dtype)
    else:
        if needs.x:
            grads = grads._replace(x=buffers.empty_like(x))
        if needs.w_ih or needs.w_hh or needs.bias:
            grads = grads._replace(
                w_ih=torch.empty_like(w_ih),
                w_hh=torch.empty_like(w_hh),
                bias=w_hh.new_empty(len(w_hh)),
            )
    keep, cell_keep = masks
    _call(
        "backward",
        _BACKWARD,
        operands,
        is_projected=is_projected,
        keep_per_sample=keep is not None and keep.dim() == 2,
        cell_keep_per_sample=cell_keep is not None and cell_keep.dim() == 2,
        grad_gates=grad_gates,
        **operands._asdict(),
        **masks._asdict(),
        **saved._asdict(),
        **{f"grad_{name}": grad for name, grad in incoming._asdict().items()},
        **{f"grad_{name}": grad for name, grad in grads._asdict().items()},
    )
    if grad_gates is not None:
        return _finish(grads, grad_gates, operands, saved.outputs, needs)
    return grads


def _leaves_input_to_torch(x: Tensor, size: int) -> bool:
    return 4 * size * (size + x.shape[2]) * x.dtype.itemsize > OWN_PRODUCTS_BYTES


def _padded(size: int, dtype: torch.dtype) -> int:
    """Return the hidden size rounded up to whole vectors, as the compiled code does."""
    lanes = library.at_hand().vector_bytes // dtype.itemsize
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


def _finish(
    grads: Gradients, grad_gates: Tensor, operands: Operands, outputs: Tensor, needs: Needs
) -> Gradients:
    """Add what follows from the gradients of all gates, each in one product over all steps."""
    x, h0, w_ih, dtype = operands.x, operands.h0, operands.w_ih, operands.product_dtype
    size, padded = h0.shape[1], grad_gates.shape[2] // 4
    flat = grad_gates.flatten(0, 1)
    if needs.x:
        wide = _widen(w_ih, size, padded)
        if dtype is not None:
            grad_x = linear(grad_gates, wide.t(), None, dtype)
        else:
            grad_x = buffers.empty_like(x)
            torch.mm(flat, wide, out=grad_x.view(-1, x.shape[2]))
        grads = grads._replace(x=grad_x)
    if needs.w_ih:
        grad = weight_gradient(flat, x.flatten(0, 1), dtype)
        grads = grads._replace(w_ih=_narrow(grad, size, padded))
    if needs.w_hh:
        grad = weight_gradient(grad_gates[0], h0, dtype)
        grad += weight_gradient(grad_gates[1:].flatten(0, 1), outputs[:-1].flatten(0, 1), dtype)
        grads = grads._replace(w_hh=_narrow(grad, size, padded))
    if needs.bias:
        grads = grads._replace(bias=_narrow(flat.sum(0), size, padded))
    return grads


def _call(
    direction: str, names: Sequence[str], operands: Operands, **values: Tensor | int | None
) -> None:
    """Call the compiled pass with its struct: numbers as they are, tensors by their address."""
    x = operands.x
    sizes = (*x.shape, operands.h0.shape[1], torch.get_num_threads())
    values.update(zip(_SIZES, sizes, strict=True))
    fields = (
        value.data_ptr() if isinstance(value, Tensor) else int(value or 0)
        for value in (values[name] for name in names)
    )
    struct = (ctypes.c_int64 * len(names))(*fields)
    function = getattr(library.load(), f"hdetach_{direction}_{str(x.dtype).removeprefix('torch.')}")
    if function(struct):
        raise MemoryError("no memory left for the LSTM's weights; make the model smaller")
