"""Backend `reference`: h-detach by its definition, a loop with `.detach()` as in Algorithm 1.

Every other backend is compared with this one, outputs and every gradient, which here are
autograd's own. It is slow, and it is the place to read what the others promise (Kanuparthi, Arpit
et al., ICLR 2019, section 2.3).
"""

from typing import Any

import torch
from torch import Tensor

from captioner.errors import CaptionerError


class _DampGradient(torch.autograd.Function):
    """The same state, its gradient multiplied by `keep`; 0 is what `.detach()` does."""

    @staticmethod
    def forward(state: Tensor, keep: Tensor) -> Tensor:  # noqa: ARG004
        return state.view_as(state)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        keep = ctx.saved_tensors[0].unsqueeze(-1)
        return torch.where(keep == 0.0, 0.0, grad * keep), None


def loop(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    keep: Tensor | None,
    cell_keep: Tensor | None,
    lengths: Tensor | None = None,
    w_hr: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden states of all steps and the last states; autograd differentiates them.

    Shapes: those of `captioner.lstm.operator.hdetach_lstm`.
    """
    h, c = h0, c0
    outputs = []
    for t in range(x.shape[0]):
        h_in = h if keep is None else _DampGradient.apply(h, keep[t])
        c_in = c if cell_keep is None else _DampGradient.apply(c, cell_keep[t])
        gates = torch.nn.functional.linear(x[t], w_ih, b_ih)
        gates = gates + torch.nn.functional.linear(h_in, w_hh, b_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        new_c = f.sigmoid() * c_in + i.sigmoid() * g.tanh()
        new_h = o.sigmoid() * new_c.tanh()
        if w_hr is not None:
            new_h = torch.nn.functional.linear(new_h, w_hr)
        if lengths is None:
            h, c = new_h, new_c
            outputs.append(h)
        else:
            running = (t < lengths).to(x.device).unsqueeze(1)
            h, c = torch.where(running, new_h, h), torch.where(running, new_c, c)
            outputs.append(torch.where(running, new_h, 0.0))
    return torch.stack(outputs), h, c


def refuse(ctx: Any, *grads: Tensor | None) -> None:  # noqa: ARG001
    """Stand in for the derivative of a backward pass, and raise.

    The gradient of h-detach is not the gradient of any function, so its derivative has no meaning.
    Autograd would return one, because it treats what is detached as a constant.
    """
    raise CaptionerError(
        "the h-detach LSTM has no second derivative: what is detached would be missing from it; "
        "differentiate once (create_graph=True is of no use here)"
    )


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return tuple(None if grad is None else grad.view_as(grad) for grad in grads)

    backward = staticmethod(refuse)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        return tuple(None if one is None else one.view_as(one) for one in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # noqa: ARG004
        return _Gradients.apply(*grads)


def differentiable_once(*tensors: Tensor | None) -> Any:
    """Return the same tensors; whatever is computed from them can be differentiated once."""
    return _Once.apply(*tensors)
