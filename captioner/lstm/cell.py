"""Single steps of the h-detach LSTM, for loops that do something between them.

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
    if isinstance(keep, Tensor):
        return keep.unsqueeze(0)
    # In float64, so that a number is not rounded before it meets tensors of that dtype.
    return None if keep is None else torch.tensor([keep], dtype=torch.float64, device="cpu")


class HDetachLSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` with a mask: the same parameters, values and errors. `eval()` detaches nothing.

    Shapes:
        input [B, I] or [I], hx two of [B, H] or [H] -> two of the shape of hx.
    """

    def forward(
        self,
        input: Tensor,  # noqa: A002
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        keep: Tensor | float | None = None,
        cell_keep: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        if input.dim() not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for number, state in enumerate(hx or ()):
            if state.dim() not in (1, 2):
                raise ValueError(
                    f"LSTMCell: Expected hx[{number}] to be 1D or 2D, got {state.dim()}D instead"
                )
        is_batched = input.dim() == 2
        x = input if is_batched else input.unsqueeze(0)
        if hx is None:
            zeros = x.new_zeros(x.shape[0], self.hidden_size)
            hx = zeros, zeros
        elif not is_batched:
            hx = hx[0].unsqueeze(0), hx[1].unsqueeze(0)
        if not self.training:
            keep = cell_keep = None
        h, c = hdetach_step(
            x,
            *hx,
            self.weight_ih,
            self.weight_hh,
            self.bias_ih,
            self.bias_hh,
            keep,
            cell_keep,
        )
        return (h, c) if is_batched else (h.squeeze(0), c.squeeze(0))
