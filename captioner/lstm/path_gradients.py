"""The gradient of an LSTM split by its way back in time: along the cell state, or through h.

Theorem 1 of Kanuparthi, Arpit et al. (ICLR 2019, "h-detach") writes the derivatives of c_t and
h_t as z_t = (A_t + B_t) z_{t-1}: A_t carries them over from c_{t-1}, B_t from h_{t-1}. The
product of the A_t alone is the cell part; every other term of the expanded product has passed
through a hidden state at least once, and h-detach thins out exactly these.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.hdetach.gates import activate_gates, gate_gradients
from captioner.lstm.operands import Masks, OperandError, Operands, check_arguments

_ROWS_AT_ONCE = 1024  # (loss step, sample) pairs carried back together: bounds time and memory


@dataclass(frozen=True, eq=False)
class GradientPaths:
    """The gradient with respect to the recurrent weights, by path and by time lag.

    Entry k of either tensor belongs to lag k: the loss at step t, and the weights as used at step
    s = t - k, summed over all t (and over the batch). The sum of everything is the gradient.

    `cell` went from h_t into c_t, from there to c_s along the cell state only (a product of
    forget gates), and into the weights through the gates of step s. At lag 0 that includes the
    output gate, which reaches h_t without the cell. `rest` went from some h_u to the gates of an
    earlier step at least once, s < u <= t. It is zero at lag 0.

    Shapes:
        cell, rest [T, 4 * hidden, hidden], gates in the order i, f, g, o.
    """

    cell: Tensor
    rest: Tensor

    def total(self) -> Tensor:
        """Return the gradient as autograd gives it: [4 * hidden, hidden]."""
        return self.cell.sum(dim=0) + self.rest.sum(dim=0)

    def norms(self) -> tuple[Tensor, Tensor]:
        """Return the Frobenius norms of the cell part and of the rest for each lag: two [T]."""
        return self.cell.flatten(1).norm(dim=1), self.rest.flatten(1).norm(dim=1)


@torch.no_grad()
def gradient_paths(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    grad_outputs: Tensor,
    *,
    keep: Tensor | None = None,
) -> GradientPaths:
    """Return the gradient with respect to `w_hh`, split by path and by time lag.

    `grad_outputs[t]` is the derivative of the loss with respect to h_t where the loss itself
    reads h_t. For a one-layer `nn.LSTM`, `nn.LSTMCell` or `HDetachLSTM` with biases:

        outputs, _ = lstm(x)
        (grad_outputs,) = torch.autograd.grad(loss_of(outputs), outputs)
        paths = gradient_paths(x, None, None, *lstm.parameters(), grad_outputs)

    `keep[t]` multiplies what flows back through h_{t-1} into which step t looked: a mask of 0 and
    1 gives the gradient of h-detach under that mask, 0 everywhere leaves the cell part alone, and
    1 - p everywhere gives the mean over all masks (Corollary 1), because a path passes each step
    only once and the draws are independent.

    Time grows with steps with a loss times T times batch (each pair of a loss step and a lag costs
    three products with a [4 * hidden, hidden] matrix), memory with the result's.

    Shapes:
        x [T, batch, input], h0 and c0 [batch, hidden] (None: zeros), w_ih [4 * hidden, input],
        w_hh [4 * hidden, hidden], b_ih and b_hh [4 * hidden] or None,
        grad_outputs [T, batch, hidden], keep [T] or [T, batch] (None: ones).
    Raises:
        OperandError: the shapes do not belong together.
    """
    hidden_size = w_hh.shape[-1]
    start = x.new_zeros(x.shape[-2], hidden_size)
    hidden, cell = start if h0 is None else h0, start if c0 is None else c0
    check_arguments(Operands(x, hidden, cell, w_ih, w_hh, b_ih, b_hh), Masks(keep, None))
    steps, batch, _ = x.shape
    if grad_outputs.shape != (steps, batch, hidden_size):
        raise OperandError(
            f"grad_outputs has shape {list(grad_outputs.shape)}; this sequence and LSTM need "
            f"{[steps, batch, hidden_size]}, one row for each hidden state"
        )
    gates = torch.nn.functional.linear(x, w_ih, b_ih)
    if b_hh is not None:
        gates += b_hh
    before, cells, squashed = (torch.empty_like(grad_outputs) for _ in range(3))
    for t in range(steps):
        before[t], cells[t] = hidden, cell
        gates[t].addmm_(hidden, w_hh.t())
        hidden, cell, squashed[t] = activate_gates(gates[t], cell)
    if keep is None:
        keep = x.new_ones(steps)
    kept = keep.to(x).reshape(steps, -1, 1).expand(steps, batch, 1)

    cell_part = w_hh.new_zeros(steps, 4 * hidden_size, hidden_size)
    rest_part = torch.zeros_like(cell_part)
    tiny = torch.finfo(w_hh.dtype).tiny
    with_a_loss = grad_outputs.flatten(1).any(dim=1).nonzero().flatten()
    for sources in with_a_loss.split(max(1, _ROWS_AT_ONCE // batch)):
        rows = len(sources) * batch
        along_hidden = grad_outputs[sources].view(rows, hidden_size)
        along_cell, rest_hidden, rest_cell = (torch.zeros_like(along_hidden) for _ in range(3))
        for lag in range(int(sources[-1]) + 1):
            reached = sources[sources >= lag] - lag
            rows = len(reached) * batch
            here, cells_here, squashed_here, values = (
                of[reached].view(rows, -1) for of in (gates, cells, squashed, before)
            )
            step = here, cells_here, squashed_here
            # Sources are in order, so those that have come to the start are the first rows.
            grad_gates, rest_gates = (torch.empty_like(here) for _ in range(2))
            along_cell = gate_gradients(
                *step, along_hidden[-rows:], along_cell[-rows:], out=grad_gates
            )
            rest_cell = gate_gradients(
                *step, rest_hidden[-rows:], rest_cell[-rows:], out=rest_gates
            )
            cell_part[lag].addmm_(grad_gates.t(), values)
            rest_part[lag].addmm_(rest_gates.t(), values)
            # Through h_{s-1}, both become part of the rest; only the loss itself enters h_t.
            rest_hidden = (grad_gates + rest_gates) @ w_hh * kept[reached].reshape(rows, 1)
            along_hidden = torch.zeros_like(rest_hidden)
            # What has decayed to denormals would stay there, and make each product far slower.
            along_cell, rest_cell, rest_hidden = (
                torch.nn.functional.hardshrink(grad, tiny)
                for grad in (along_cell, rest_cell, rest_hidden)
            )
            if not (along_cell.any() or rest_cell.any() or rest_hidden.any()):
                break
    return GradientPaths(cell=cell_part, rest=rest_part)
