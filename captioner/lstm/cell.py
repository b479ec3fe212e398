"""h-detach step by step, for loops that do something between steps, such as attention.

`HDetachLSTMCell` takes the place of `torch.nn.LSTMCell`; `hdetach_step` is the function
underneath. Both are the operator of the whole sequence, run on a sequence of one step. The loop
draws its mask before it begins, with `sample_keep`, and hands each step its number.
"""

import torch
from torch import Tensor, nn

from captioner.lstm.operator import hdetach_lstm


def hdetach_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    keep: Tensor | float | None = None,
    cell_keep: Tensor | float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state after one step.

    The gradient that leaves through `h` is multiplied by `keep`, that through `c` by `cell_keep`.
    Where a loop uses h also elsewhere, to ask for attention or as part of x, that path is its own:
    detach it there, or leave it.

    Shapes:
        x [B, I], h and c [B, H], weights as those of `hdetach_lstm`, masks a number, [] or [B]
        -> two of [B, H].
    Raises:
        OptionError: as `hdetach_lstm`.
    """
    _, h, c = hdetach_lstm(
        x.unsqueeze(0),
        h,
        c,
        w_ih,
        w_hh,
        b_ih,
        b_hh,
        _as_mask(keep),
        _as_mask(cell_keep),
        backend,
    )
    return h, c


def _as_mask(keep: Tensor | float | None) -> Tensor | None:
    return None if keep is None else torch.as_tensor(keep).unsqueeze(0)


class HDetachLSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` with a mask: the same parameters, values and errors. `eval()` detaches nothing.

    Shapes:
        x [B, I] or [I], state two of [B, H] or [H] -> two of the state's shape.
    """

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        keep: Tensor | float | None = None,
        cell_keep: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        if x.dim() not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {x.dim()}D instead")
        batched = x.dim() == 2
        if not batched:
            x = x.unsqueeze(0)
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.hidden_size)
            state = zeros, zeros
        elif not batched:
            state = state[0].unsqueeze(0), state[1].unsqueeze(0)
        if not self.training:
            keep = cell_keep = None
        h, c = hdetach_step(
            x,
            *state,
            self.weight_ih,
            self.weight_hh,
            self.bias_ih,
            self.bias_hh,
            keep,
            cell_keep,
        )
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))
