"""The elementwise half of an LSTM step, forward and backward, written on buffers.

Gates come in the order of `torch.nn.LSTM`: input, forget, candidate, output. The recurrences of
this project do the matrix products themselves, so that weight gradients can be taken for all
steps at once instead of step by step.
"""

import torch
from torch import Tensor


def activate_gates(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn pre-activations into gates in place, and return hidden, new cell and tanh(new cell).

    Shapes:
        gates [rows, 4 * hidden] (overwritten), cell [rows, hidden] -> three of [rows, hidden].
    """
    hidden_size = cell.shape[1]
    gates[:, : 2 * hidden_size].sigmoid_()
    gates[:, 2 * hidden_size : 3 * hidden_size].tanh_()
    gates[:, 3 * hidden_size :].sigmoid_()
    into, forget, candidate, out = gates.chunk(4, dim=1)
    new_cell = forget * cell
    new_cell.addcmul_(into, candidate)
    squashed = torch.tanh(new_cell)
    return out * squashed, new_cell, squashed


def lstm_state(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state after a step; autograd and exporters can follow.

    Shapes:
        gates [..., 4 * hidden] before activation, cell [..., hidden] -> two of [..., hidden].
    """
    into, forget, candidate, out = gates.chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def first_lstm_state(gates: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state after a step from a zero state, where no gate forgets.

    Shapes:
        gates [..., 4 * hidden] before activation -> two of [..., hidden].
    """
    into, _, candidate, out = gates.chunk(4, dim=-1)
    cell = into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def gate_gradients(
    gates: Tensor,
    cell: Tensor,
    squashed: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    out: Tensor,
) -> Tensor:
    """Write the gradient of the pre-activations to `out`; return that of the previous cell.

    Shapes:
        gates, out [rows, 4 * hidden]; cell (the previous one), squashed = tanh(new cell),
        grad_hidden, grad_cell (of the new cell, from later steps) [rows, hidden]
        -> [rows, hidden].
    """
    into, forget, candidate, output = gates.chunk(4, dim=1)
    grad_into, grad_forget, grad_candidate, grad_output = out.chunk(4, dim=1)
    grad_cell = grad_cell + torch.ops.aten.tanh_backward(grad_hidden * output, squashed)
    torch.mul(grad_cell, candidate, out=grad_into)
    torch.mul(grad_cell, cell, out=grad_forget)
    torch.mul(grad_cell, into, out=grad_candidate)
    torch.mul(grad_hidden, squashed, out=grad_output)
    half = 2 * cell.shape[1]
    slope = gates * gates
    torch.sub(gates, slope, out=slope)
    out[:, :half] *= slope[:, :half]
    out[:, half + cell.shape[1] :] *= slope[:, half + cell.shape[1] :]
    grad_candidate.addcmul_(grad_candidate, candidate * candidate, value=-1.0)
    return grad_cell * forget
