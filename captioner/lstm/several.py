"""Several h-detach LSTMs of one size, each with its own weights, input and mask, side by side.

On a GPU one launch runs all steps of all of them (backend `triton`): an LSTM of 128 units leaves
most of a large GPU idle, so nine seeds of an experiment take little longer than one. Elsewhere they
run one after the other. Values and gradients are those of `hdetach_lstm` for each.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.lstm.backends import resolve
from captioner.lstm.operands import OperandError
from captioner.lstm.operator import hdetach_lstm


def several_lstms(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    keep: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return the hidden states of all steps of S models, and their cell states after the last.

    States begin at zero. keep[t, s] multiplies the gradient that leaves step t of model s through
    h_{t-1}: 0 detaches it, None keeps all.

    Shapes:
        x [T, S, B, I], w_ih [S, 4H, I], w_hh [S, 4H, H], bias [S, 4H], keep [T, S]
        -> outputs [T, S, B, H], c_n [S, B, H].
    Raises:
        OperandError: the shapes do not belong together.
        OptionError: the backend cannot take these tensors.
    """
    steps, models, _, inputs = _sizes(x)
    size = w_hh.shape[-1]
    wanted = {
        "w_ih": (w_ih, (models, 4 * size, inputs)),
        "w_hh": (w_hh, (models, 4 * size, size)),
        "bias": (bias, (models, 4 * size)),
        "keep": (keep, (steps, models)),
    }
    for name, (given, shape) in wanted.items():
        if given is not None and given.shape != shape:
            raise OperandError(
                f"{name} has shape {list(given.shape)}; {models} LSTMs of {size} units and "
                f"{steps} steps need {list(shape)}"
            )
    if resolve(backend, x.device, x.dtype, has_projection=False) == "triton":
        outputs, cell = _Several.apply(x, w_ih, w_hh, bias, keep)
        return outputs, cell
    start = x.new_zeros(x.shape[2], size)
    results = [
        hdetach_lstm(
            *(x[:, model], start, start, w_ih[model], w_hh[model], bias[model], None),
            None if keep is None else keep[:, model],
            backend=backend,
        )
        for model in range(models)
    ]
    outputs, _, cells = zip(*results, strict=True)
    return torch.stack(outputs, dim=1), torch.stack(cells)


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    if x.dim() != 4 or 0 in x.shape:
        raise OperandError(
            f"x has shape {list(x.shape)}; it needs four sizes above 0: steps, models, rows, inputs"
        )
    steps, models, rows, inputs = x.shape
    return steps, models, rows, inputs


class _Several(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        from captioner.lstm.backends.triton_backend import grid, tiles
        from captioner.lstm.backends.triton_kernels import forward_kernel

        steps, models, rows, _ = x.shape
        size = w_hh.shape[-1]
        gates = torch.matmul(x, w_ih.transpose(1, 2)).add_(bias[:, None])
        start = x.new_zeros(models * rows, size)
        outputs, cells = (x.new_empty(steps, models, rows, size) for _ in range(2))
        forward_kernel[grid(rows, models)](
            *(gates, start, start, w_hh.transpose(1, 2).contiguous(), outputs, cells, start),
            *(steps, models * rows, rows, models * rows * size),
            size=size,
            packed=False,
            **tiles(size),
        )
        ctx.save_for_backward(x, w_ih, w_hh, keep, gates, outputs, cells)
        return outputs, cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        from captioner.lstm.backends.triton_backend import grid, tiles
        from captioner.lstm.backends.triton_kernels import backward_kernel

        x, w_ih, w_hh, keep, gates, outputs, cells = ctx.saved_tensors
        steps, models, rows, _ = x.shape
        size = w_hh.shape[-1]
        start = x.new_zeros(models * rows, size)
        grad_hidden, grad_cell = torch.zeros_like(start), grad_last.contiguous().clone()
        grad_gates = torch.empty_like(gates)
        of_rows = start
        if keep is not None:  # the kernel has a mask for each row, and so for each model
            of_rows = keep.to(x).unsqueeze(2).expand(steps, models, rows).contiguous()
        backward_kernel[grid(rows, models)](
            *(gates, start, cells, grad_outputs.contiguous(), grad_hidden, grad_cell, grad_gates),
            *(w_hh.contiguous(), of_rows, start, start, steps, models * rows, rows),
            size=size,
            packed=False,
            has_grad_outputs=True,
            keep_width=0 if keep is None else 2,
            cell_keep_width=0,
            **tiles(size),
        )
        by_model = grad_gates.transpose(0, 1).flatten(1, 2)  # [S, T * B, 4H]
        before = torch.cat([torch.zeros_like(outputs[:1]), outputs[:-1]])
        return (
            torch.matmul(grad_gates, w_ih) if ctx.needs_input_grad[0] else None,
            by_model.mT @ x.transpose(0, 1).flatten(1, 2),
            by_model.mT @ before.transpose(0, 1).flatten(1, 2),
            by_model.sum(1),
            None,
        )
