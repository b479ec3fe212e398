"""An LSTM over packed rows with h-detach, its weight gradient taken once for all steps.

The forward pass is that of `torch.nn.LSTM`. In the backward pass the gradient that leaves step t
through h_{t-1} is multiplied by keep[t]: 0 cuts it (Algorithm 1 of Kanuparthi, Arpit et al.,
ICLR 2019), 1 is a plain LSTM. The gradient along the cell state is never touched, and neither
is that of the recurrent weight, which only sees the value of h_{t-1}.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.hdetach.gates import activate_gates, gate_gradients
from captioner.hdetach.products import Multiplier, weight_gradient


class Step(Protocol):
    """What the recurrence must know of one step: its place, and which rows go on."""

    @property
    def tokens(self) -> slice: ...
    @property
    def survivors(self) -> Tensor | None: ...


def select_active(rows: Tensor, active: Tensor | None) -> Tensor:
    """Return the rows that take part in the next step."""
    return rows if active is None else rows.index_select(0, active)


def scatter_active(grad: Tensor, active: Tensor | None, rows: int) -> Tensor:
    """Return the gradient of all rows of a step from that of the rows that went on."""
    if active is None:
        return grad
    return grad.new_zeros(rows, grad.shape[1]).index_copy_(0, active, grad)


class _PackedLSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input_gates: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight: Tensor,
        keep: Sequence[float],
        timeline: Sequence[Step],
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        tokens, size = input_gates.shape[0], hidden.shape[1]
        recurrent = Multiplier(weight, dtype)
        gates = torch.empty_like(input_gates)
        outputs, before, cells, squashed = (input_gates.new_empty(tokens, size) for _ in range(4))
        for step in timeline:
            here = step.tokens
            before[here] = hidden = select_active(hidden, step.survivors)
            cells[here] = cell = select_active(cell, step.survivors)
            torch.add(input_gates[here], recurrent.forward(hidden), out=gates[here])
            hidden, cell, squashed[here] = activate_gates(gates[here], cell)
            outputs[here] = hidden
        ctx.save_for_backward(weight, gates, before, cells, squashed)
        ctx.keep, ctx.timeline, ctx.dtype = keep, timeline, dtype
        ctx.set_materialize_grads(False)
        return outputs, squashed

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_outputs: Tensor | None, grad_squashed: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        weight, gates, before, cells, squashed = ctx.saved_tensors
        recurrent = Multiplier(weight, ctx.dtype)
        grad_gates = torch.empty_like(gates)
        last = ctx.timeline[-1].tokens
        grad_outputs = torch.zeros_like(before) if grad_outputs is None else grad_outputs
        grad_hidden = before.new_zeros(last.stop - last.start, before.shape[1])
        grad_cell = torch.zeros_like(grad_hidden)
        for t in reversed(range(len(ctx.timeline))):
            step = ctx.timeline[t]
            here = step.tokens
            if grad_squashed is not None:
                grad_cell = grad_cell + torch.ops.aten.tanh_backward(
                    grad_squashed[here], squashed[here]
                )
            grad_cell = gate_gradients(
                gates[here],
                cells[here],
                squashed[here],
                grad_outputs[here] + grad_hidden,
                grad_cell,
                out=grad_gates[here],
            )
            if ctx.keep[t] == 0.0:
                grad_hidden = torch.zeros_like(grad_cell)
            else:
                grad_hidden = recurrent.backward(grad_gates[here])
                if ctx.keep[t] != 1.0:
                    grad_hidden *= ctx.keep[t]
            if t > 0:
                earlier = ctx.timeline[t - 1].tokens
                rows = earlier.stop - earlier.start
                grad_hidden = scatter_active(grad_hidden, step.survivors, rows)
                grad_cell = scatter_active(grad_cell, step.survivors, rows)
        grad_weight = weight_gradient(grad_gates, before, ctx.dtype)
        return grad_gates, grad_hidden, grad_cell, grad_weight, None, None, None


def packed_lstm(
    input_gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight: Tensor,
    *,
    keep: Sequence[float],
    timeline: Sequence[Step],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the hidden state after each step of every row.

    Shapes:
        input_gates [tokens, 4 * hidden] (what the inputs and biases add to the gates), hidden and
        cell [rows, hidden] before step 0, weight [4 * hidden, hidden], keep one number per step
        -> [tokens, hidden].
    """
    return packed_lstm_with_memory(
        input_gates, hidden, cell, weight, keep=keep, timeline=timeline, dtype=dtype
    )[0]


def packed_lstm_with_memory(
    input_gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight: Tensor,
    *,
    keep: Sequence[float],
    timeline: Sequence[Step],
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `packed_lstm` does, and the tanh of the cell state after each step.

    Shapes:
        as `packed_lstm` -> two of [tokens, hidden].
    """
    return _PackedLSTM.apply(input_gates, hidden, cell, weight, keep, timeline, dtype)
