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

from captioner.lstm.cpu import buffers, library
from captioner.lstm.products import linear, weight_gradient

# Above this many bytes the packed weights and the sums of their gradients outgrow a core's cache,
# and the input's products are left to PyTorch.
OWN_PRODUCTS_BYTES = 1 << 20

_FORWARD = (
    *("steps", "batch", "input", "hidden", "threads", "is_projected", "is_kept", "lengths"),
    *("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "outputs", "h_n", "c_n", "gates", "cells"),
)
_BACKWARD = (
    *("steps", "batch", "input", "hidden", "threads", "is_projected"),
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


def forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    lengths: Tensor | None,
    save: bool,
    bf16_products: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch_size, inputs = x.shape
    size = h0.shape[1]
    gates_shape, cells_shape = workspace_shapes(steps, batch_size, inputs, size)
    is_projected = _leaves_input_to_torch(x, size)
    kept_gates = steps if save or is_projected else 1
    gates = buffers.empty((kept_gates, *gates_shape[1:]), x.dtype)
    cells = buffers.empty((steps + 1 if save else 2, *cells_shape[1:]), x.dtype)
    if is_projected:
        _project(x, w_ih, b_ih, b_hh, gates, bf16_products)
    outputs = buffers.empty((steps, batch_size, size), x.dtype)
    h_n, c_n = torch.empty_like(h0), torch.empty_like(c0)
    _call(
        "forward",
        _FORWARD,
        x.dtype,
        steps=steps,
        batch=batch_size,
        input=inputs,
        hidden=size,
        threads=torch.get_num_threads(),
        is_projected=is_projected,
        is_kept=save,
        lengths=lengths,
        x=x,
        h0=h0,
        c0=c0,
        w_ih=w_ih,
        w_hh=w_hh,
        b_ih=b_ih,
        b_hh=b_hh,
        outputs=outputs,
        h_n=h_n,
        c_n=c_n,
        gates=gates,
        cells=cells,
    )
    if not save:
        return outputs, h_n, c_n, x.new_empty(0), x.new_empty(0)
    return outputs, h_n, c_n, gates, cells


def backward(
    grad_outputs: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,  # noqa: ARG001
    b_hh: Tensor | None,  # noqa: ARG001
    outputs: Tensor,
    gates: Tensor,
    cells: Tensor,
    *,
    keep: Tensor | None,
    cell_keep: Tensor | None,
    lengths: Tensor | None,
    needs: Sequence[bool],
    bf16_products: bool,
) -> tuple[Tensor | None, ...]:
    steps, batch_size, inputs = x.shape
    size = h0.shape[1]
    needs_x, _, _, *needs_weights = needs
    is_projected = _leaves_input_to_torch(x, size)
    grad_gates = None
    grads: list[Tensor | None] = [None] * 6
    grads[1:3] = torch.empty_like(h0), torch.empty_like(c0)
    if is_projected:
        row = _padded(size, x.dtype) * 4
        grad_gates = buffers.empty((steps, batch_size, row), x.dtype)
    else:
        if needs_x:
            grads[0] = buffers.empty_like(x)
        if any(needs_weights):
            grads[3:] = torch.empty_like(w_ih), torch.empty_like(w_hh), w_hh.new_empty(4 * size)
    _call(
        "backward",
        _BACKWARD,
        x.dtype,
        steps=steps,
        batch=batch_size,
        input=inputs,
        hidden=size,
        threads=torch.get_num_threads(),
        is_projected=is_projected,
        keep_per_sample=keep is not None and keep.dim() == 2,
        cell_keep_per_sample=cell_keep is not None and cell_keep.dim() == 2,
        lengths=lengths,
        keep=keep,
        cell_keep=cell_keep,
        grad_outputs=grad_outputs,
        grad_h_n=grad_h_n,
        grad_c_n=grad_c_n,
        x=x,
        h0=h0,
        w_ih=w_ih,
        w_hh=w_hh,
        outputs=outputs,
        gates=gates,
        cells=cells,
        grad_gates=grad_gates,
        grad_x=grads[0],
        grad_h0=grads[1],
        grad_c0=grads[2],
        grad_w_ih=grads[3],
        grad_w_hh=grads[4],
        grad_bias=grads[5],
    )
    if grad_gates is not None:
        _finish(grads, grad_gates, x, h0, w_ih, outputs, needs, bf16_products)
    return tuple(grads)


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


def _project(
    x: Tensor,
    w_ih: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    gates: Tensor,
    bf16_products: bool,
) -> None:
    """Write what input and biases add to the gates of all steps to the front of `gates`."""
    size = w_ih.shape[0] // 4
    padded = _padded(size, x.dtype)
    flat = x.flatten(0, 1)
    target = gates.view(-1)[: flat.shape[0] * 4 * padded].view(-1, 4 * padded)
    bias = b_ih if b_hh is None else b_hh if b_ih is None else b_ih + b_hh
    wide = _widen(w_ih, size, padded)
    if bf16_products:
        target.copy_(linear(flat, wide, None, torch.bfloat16))
        if bias is not None:
            target += _widen(bias, size, padded)
    elif bias is None:
        torch.mm(flat, wide.t(), out=target)
    else:
        torch.addmm(_widen(bias, size, padded), flat, wide.t(), out=target)


def _finish(
    grads: list[Tensor | None],
    grad_gates: Tensor,
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    outputs: Tensor,
    needs: Sequence[bool],
    bf16_products: bool,
) -> None:
    """Take what follows from the gradients of all gates, each in one product over all steps."""
    needs_x, _, _, needs_w_ih, needs_w_hh, needs_bias = needs
    dtype = torch.bfloat16 if bf16_products else None
    size, padded = h0.shape[1], grad_gates.shape[2] // 4
    flat = grad_gates.flatten(0, 1)
    if needs_x:
        wide = _widen(w_ih, size, padded)
        if bf16_products:
            grads[0] = linear(grad_gates, wide.t(), None, dtype)
        else:
            grads[0] = grad_x = buffers.empty_like(x)
            torch.mm(flat, wide, out=grad_x.view(-1, x.shape[2]))
    if needs_w_ih:
        grads[3] = _narrow(weight_gradient(flat, x.flatten(0, 1), dtype), size, padded)
    if needs_w_hh:
        grad = weight_gradient(grad_gates[0], h0, dtype)
        grad += weight_gradient(grad_gates[1:].flatten(0, 1), outputs[:-1].flatten(0, 1), dtype)
        grads[4] = _narrow(grad, size, padded)
    if needs_bias:
        grads[5] = _narrow(flat.sum(0), size, padded)


def _call(
    direction: str, names: Sequence[str], dtype: torch.dtype, **values: Tensor | int | None
) -> None:
    """Call the compiled pass with its struct: numbers as they are, tensors by their address."""
    fields = (
        value.data_ptr() if isinstance(value, Tensor) else int(value or 0)
        for value in (values[name] for name in names)
    )
    struct = (ctypes.c_int64 * len(names))(*fields)
    function = getattr(library.load(), f"hdetach_{direction}_{str(dtype).removeprefix('torch.')}")
    if function(struct):
        raise MemoryError("no memory left for the LSTM's weights; make the model smaller")
