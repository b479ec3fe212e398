"""Backend `reference`: h-detach by its definition, a loop with `.detach()` as in Algorithm 1.

Every other backend is compared with this one, outputs and every gradient, which here are
autograd's own. It is slow, and it is the place to read what the others promise (Kanuparthi, Arpit
et al., ICLR 2019, section 2.3).
"""

from typing import Any

import torch
from torch import Tensor


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


def partly_detached(state: Tensor, keep: Tensor | None) -> Tensor:
    """Return `state` with its gradient multiplied by `keep`.

    Shapes:
        state [B, H], keep [] or [B] -> [B, H].
    """
    return state if keep is None else _DampGradient.apply(state, keep)


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
        h_in = partly_detached(h, None if keep is None else keep[t])
        c_in = partly_detached(c, None if cell_keep is None else cell_keep[t])
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
