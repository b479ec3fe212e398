"""Backend `torch`: h-detach in PyTorch's own operators, for every device and dtype.

The input is projected for all steps at once, gates are squashed in place, and the weight
gradients are taken for many steps in one product; only h_{t-1} @ W and the gate arithmetic run
step by step. It needs no compiler, and in float64 it is exact to rounding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.hdetach.gates import gate_gradients
from captioner.hdetach.products import linear, weight_gradient
from captioner.lstm.operands import (
    ForwardResults,
    Gradients,
    GradResults,
    Masks,
    Needs,
    Operands,
    Saved,
)

HAS_PROJECTION = True

# Steps whose gate gradients are alive at a time: many enough for a large product, few enough for
# the buffer to be reused while it is in the cache. Partial sums also round less.
CHUNK = 32

# Gradients below this are set to zero. They fade by orders of magnitude per step, and below
# 1e-38 an arithmetic instruction takes some hundred cycles; no sum in float32 notices them.
FADED = {torch.float32: 1e-30}


def missing() -> str | None:
    return None


def unsupported(device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: ARG001
    return None


def workspace_shapes(
    steps: int, batch_size: int, hidden_size: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shapes of the squashed gates and of the cell state after each step."""
    return (steps, batch_size, 4 * hidden_size), (steps, batch_size, hidden_size)


def forward(operands: Operands, *, save: bool) -> ForwardResults:
    x, hidden, cell, w_ih, w_hh, _, _, w_hr, lengths, _ = operands
    steps, batch_size, _ = x.shape
    size = cell.shape[1]
    gates = linear(x, w_ih, operands.bias, operands.product_dtype)
    outputs = new_states(x, steps, hidden.shape[1], lengths)
    cells = new_states(x, steps if save else 1, size, lengths)
    recurrent = w_hh.t()
    for t, rows in enumerate(running_rows(steps, batch_size, lengths)):
        now = gates[t, :rows].addmm_(hidden[:rows], recurrent)
        now[:, : 2 * size].sigmoid_()
        now[:, 2 * size : 3 * size].tanh_()
        now[:, 3 * size :].sigmoid_()
        into, forget, candidate, out = now.chunk(4, dim=1)
        new_cell = cells[t if save else 0, :rows]
        torch.mul(cell[:rows], forget, out=new_cell).addcmul_(into, candidate)
        if w_hr is None:
            torch.mul(new_cell.tanh(), out, out=outputs[t, :rows])
        else:
            torch.mm(new_cell.tanh().mul_(out), w_hr.t(), out=outputs[t, :rows])
        hidden, cell = outputs[t], cells[t if save else 0]
    h_n = last_of(outputs, lengths)
    if not save:
        return ForwardResults(outputs, h_n, cell, x.new_empty(0), x.new_empty(0))
    return ForwardResults(outputs, h_n, last_of(cells, lengths), gates, cells)


def backward(
    grads: GradResults, operands: Operands, saved: Saved, masks: Masks, needs: Needs
) -> Gradients:
    x, h0, c0, w_ih, w_hh, _, _, w_hr, lengths, _ = operands
    outputs, gates, cells = saved
    dtype = operands.product_dtype
    steps, batch_size, _ = x.shape
    size = c0.shape[1]
    grad_hidden = torch.zeros_like(h0) if grads.h_n is None else grads.h_n.clone()
    grad_cell = torch.zeros_like(c0) if grads.c_n is None else grads.c_n.clone()
    grad_x = torch.empty_like(x) if needs.x else None
    grad_w_ih = torch.zeros_like(w_ih) if needs.w_ih else None
    grad_w_hh = torch.zeros_like(w_hh) if needs.w_hh else None
    grad_bias = w_hh.new_zeros(w_hh.shape[0]) if needs.bias else None
    grad_w_hr = torch.zeros_like(w_hr) if w_hr is not None and needs.w_hr else None
    buffer = x.new_empty(min(CHUNK, steps), batch_size, w_hh.shape[0])
    rows_of = running_rows(steps, batch_size, lengths)
    hidden_factors, cell_factors = factors(masks.keep, steps), factors(masks.cell_keep, steps)
    faded = FADED.get(x.dtype)
    for end in range(steps, 0, -CHUNK):
        start = max(end - CHUNK, 0)
        grad_gates = buffer[: end - start]
        for t in range(end - 1, start - 1, -1):
            rows = rows_of[t]
            grad = grad_hidden[:rows]
            if grads.outputs is not None:
                grad = grad + grads.outputs[t, :rows]
            now = grad_gates[t - start]
            before = cells[t - 1, :rows] if t else c0[:rows]
            squashed = cells[t, :rows].tanh()
            if w_hr is not None:
                if grad_w_hr is not None:
                    grad_w_hr += grad.t() @ (squashed * gates[t, :rows, 3 * size :])
                grad = grad @ w_hr
            earlier_cell = gate_gradients(
                gates[t, :rows], before, squashed, grad, grad_cell[:rows], out=now[:rows]
            )
            now[rows:] = 0.0
            if t or needs.h0:
                _pass_on(grad_hidden[:rows], now[:rows], w_hh, hidden_factors[t], faded)
            if t or needs.c0:
                _pass_on(grad_cell[:rows], earlier_cell, None, cell_factors[t], faded)
        flat = grad_gates.flatten(0, 1)
        if grad_x is not None:
            grad_x[start:end] = linear(grad_gates, w_ih.t(), None, dtype)
        if grad_w_ih is not None:
            grad_w_ih += weight_gradient(flat, x[start:end].flatten(0, 1), dtype)
        if grad_w_hh is not None:
            hidden = (
                outputs[start - 1 : end - 1] if start else torch.cat([h0[None], outputs[: end - 1]])
            )
            grad_w_hh += weight_gradient(flat, hidden.flatten(0, 1), dtype)
        if grad_bias is not None:
            grad_bias += flat.sum(0)
    return Gradients(grad_x, grad_hidden, grad_cell, grad_w_ih, grad_w_hh, grad_bias, grad_w_hr)


def new_states(x: Tensor, steps: int, size: int, lengths: Tensor | None) -> Tensor:
    """Return room for a state per step; where rows end early nothing writes, so it is zero."""
    make = torch.empty if lengths is None else torch.zeros
    return make((steps, x.shape[1], size), dtype=x.dtype, device=x.device)


def running_rows(steps: int, batch_size: int, lengths: Tensor | None) -> list[int]:
    """Return for each step how many rows, always the first ones, still have a word to read."""
    if lengths is None:
        return [batch_size] * steps
    return (lengths > torch.arange(steps, device="cpu").unsqueeze(1)).sum(1).tolist()


def last_of(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the state of each row after its last step: [T, B, H] -> [B, H], a copy."""
    if lengths is None:
        return states[-1].clone()
    last = (lengths - 1).to(states.device)
    return states[last, torch.arange(states.shape[1], device=states.device)]


def factors(mask: Tensor | None, steps: int) -> Sequence[float | Tensor]:
    """Return what multiplies the gradient at each step: numbers where reading them is free.

    On a GPU, reading a number would wait for the device.
    """
    if mask is None:
        return [1.0] * steps
    if mask.dim() == 1 and mask.device.type == "cpu":
        return mask.tolist()
    return list(mask.unsqueeze(-1))


def follow_gate_gradients(
    grad_gates: Tensor,
    operands: Operands,
    outputs: Tensor,
    needs: Needs,
    grad_x: Tensor | None = None,
) -> Gradients:
    """Return the gradients of x, both weights and the bias.

    `grad_x` is room for that of x, which large products in float32 are written to.

    Shapes:
        grad_gates [T, B, G], w_ih of the operands [G, I] -> x [T, B, I], w_ih [G, I], w_hh [G, H],
        bias [G].
    """
    x, dtype, flat = operands.x, operands.product_dtype, grad_gates.flatten(0, 1)
    grads = Gradients()
    if needs.x and dtype is None and grad_x is not None:
        torch.mm(flat, operands.w_ih, out=grad_x.view(-1, x.shape[2]))
        grads = grads._replace(x=grad_x)
    elif needs.x:
        grads = grads._replace(x=linear(grad_gates, operands.w_ih.t(), None, dtype))
    if needs.w_ih:
        grads = grads._replace(w_ih=weight_gradient(flat, x.flatten(0, 1), dtype))
    if needs.w_hh:
        grad = weight_gradient(grad_gates[0], operands.h0, dtype)
        grad += weight_gradient(grad_gates[1:].flatten(0, 1), outputs[:-1].flatten(0, 1), dtype)
        grads = grads._replace(w_hh=grad)
    if needs.bias:
        grads = grads._replace(bias=flat.sum(0))
    return grads


def _pass_on(
    target: Tensor,
    grad: Tensor,
    weight: Tensor | None,
    factor: float | Tensor,
    faded: float | None,
) -> None:
    """Write factor * (grad @ weight) to `target`; a detached step costs no product."""
    if isinstance(factor, float) and factor == 0.0:
        target.zero_()
        return
    if weight is None:
        target.copy_(grad)
    else:
        torch.mm(grad, weight, out=target)
    if isinstance(factor, Tensor):  # zero detaches infinity as well
        factor = factor[: len(target)] if factor.dim() == 2 else factor
        target.mul_(factor).masked_fill_(factor == 0.0, 0.0)
    elif factor != 1.0:
        target.mul_(factor)
    if faded is not None:
        target.copy_(torch.nn.functional.hardshrink(target, faded))
