"""Operators that PyTorch's exporter has no graph for, or a long-winded one.

`exportable` is a context in which pooling to any size, cells of recurrent networks and transformers
can be exported; the functions are for graphs that are written for it.
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

OPSET = 17


class _PickRows(torch.autograd.Function):
    """`GatherND` with the image as its batch: one operator, where indexing would be a dozen."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, picked: Tensor) -> Tensor:  # noqa: ARG004
        images = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        return rows[images, picked]

    @staticmethod
    def symbolic(graph: Any, rows: Any, picked: Any) -> Any:
        column = graph.op("Constant", value_t=torch.tensor([-1]))
        indices = graph.op("Unsqueeze", picked, column)
        found = graph.op("GatherND", rows, indices, batch_dims_i=1)
        # The exporter knows nothing of this operator, and what follows is shorter for known sizes.
        found.setType(rows.type().with_sizes([None, None, *rows.type().varyingSizes()[2:]]))
        return found


def pick_rows(rows: Tensor, picked: Tensor) -> Tensor:
    """Return some of the rows of each image: rows [B, K', ...], picked [B, K] -> [B, K, ...]."""
    return _PickRows.apply(rows, picked)


class _Best(torch.autograd.Function):
    """`TopK` with a count that is an input of the graph."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        found, places = values.topk(int(count))
        ctx.mark_non_differentiable(places)
        return found, places

    @staticmethod
    def symbolic(graph: Any, values: Any, count: Any) -> Any:
        found, places = graph.op("TopK", values, count, axis_i=-1, outputs=2)
        found.setType(values.type().with_sizes([None, None, None]))
        places.setType(found.type().with_dtype(torch.int64))
        return found, places


def best(values: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greatest values [B, K, V] -> [B, K, C], in falling order, and their places.

    C is `count` [1], at most V. Of equal values the one of the lower place is first.
    """
    return _Best.apply(values, count)


@contextmanager
def exportable() -> Iterator[None]:
    """Let modules be exported that the exporter itself refuses."""
    has_fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        for cell, forward in ((nn.LSTMCell, _lstm_cell), (nn.GRUCell, _gru_cell)):
            stack.enter_context(mock.patch.object(cell, "forward", forward))
        stack.enter_context(mock.patch.object(nn.functional, "adaptive_avg_pool2d", _pool))
        for name, symbolic in (("aten::mT", _transposed), ("aten::expm1", _expm1)):
            torch.onnx.register_custom_op_symbolic(name, symbolic, OPSET)
            stack.callback(torch.onnx.unregister_custom_op_symbolic, name, OPSET)
        stack.enter_context(_without_printing())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, has_fast_path)
        yield


@contextmanager
def _without_printing() -> Iterator[None]:
    """Keep the exporter's C++ from writing whole graphs to standard output when it refuses one."""
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    library.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def averages(size: int, parts: int) -> Tensor:
    """Return the matrix [parts, size] that adaptive pooling multiplies one dimension by."""
    matrix = np.zeros((parts, size), np.float32)  # not a tensor: an exporter would follow it
    for part in range(parts):
        first, last = part * size // parts, -(-(part + 1) * size // parts)
        matrix[part, first:last] = 1.0 / (last - first)
    return torch.from_numpy(matrix)


def _pool(values: Tensor, output_size: Any) -> Tensor:
    """Return adaptive average pooling as products; the exporter takes only sizes that divide."""
    rows, columns = (int(size) for size in values.shape[-2:])
    wanted = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    to_rows, to_columns = (
        averages(size, size if parts is None else int(parts))
        for size, parts in zip((rows, columns), wanted, strict=True)
    )
    return to_rows @ (values @ to_columns.t())


def _transposed(graph: Any, values: Any) -> Any:
    """Return a tensor with its last two dimensions exchanged."""
    order = list(range(values.type().dim()))
    order[-2:] = order[:-3:-1]
    return graph.op("Transpose", values, perm_i=order)


def _expm1(graph: Any, values: Any) -> Any:
    """Return exp(x) - 1 as tanh(x / 2) (exp(x) + 1), which is exact near 0 too."""
    half, one = (graph.op("Constant", value_t=torch.tensor(value)) for value in (0.5, 1.0))
    near_zero = graph.op("Tanh", graph.op("Mul", values, half))
    return graph.op("Mul", near_zero, graph.op("Add", graph.op("Exp", values), one))


def _lstm_cell(
    cell: nn.LSTMCell, values: Tensor, state: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The forward pass of a cell in operators that every exporter knows."""
    zeros = values.new_zeros(*values.shape[:-1], cell.hidden_size)
    hidden, memory = (zeros, zeros) if state is None else state
    gates = nn.functional.linear(values, cell.weight_ih, cell.bias_ih)
    gates = gates + nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh)
    into, forget, candidate, out = gates.chunk(4, dim=-1)
    memory = forget.sigmoid() * memory + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * memory.tanh(), memory


def _gru_cell(cell: nn.GRUCell, values: Tensor, hidden: Tensor | None = None) -> Tensor:
    if hidden is None:
        hidden = values.new_zeros(*values.shape[:-1], cell.hidden_size)
    new = nn.functional.linear(values, cell.weight_ih, cell.bias_ih).chunk(3, dim=-1)
    old = nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh).chunk(3, dim=-1)
    reset, update = (new[0] + old[0]).sigmoid(), (new[1] + old[1]).sigmoid()
    candidate = (new[2] + reset * old[2]).tanh()
    return candidate + update * (hidden - candidate)
