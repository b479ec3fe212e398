"""The backends of the h-detach LSTM, and which one a call gets.

A backend is a module with the functions of `Backend`. All give the same results; they differ in
speed and in what they need. Asking for one that this machine cannot have (no compiler) costs one
line in the log and gives `torch`; asking for one that cannot take the tensors is an error.
`reference` is no module of this kind but plain autograd.
"""

import importlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast

import torch
from torch import Tensor

from captioner.errors import OptionError

logger = logging.getLogger(__name__)

MODULES = {
    "torch": "captioner.lstm.pure",
    "cpu": "captioner.lstm.cpu",
    "triton": "captioner.lstm.triton_backend",
}
NAMES = ("auto", "reference", *MODULES)
# What `auto` prefers, by the type of the device.
PREFERRED = {"cpu": "cpu", "cuda": "triton"}


class Backend(Protocol):
    """What a backend's module holds.

    All tensors are contiguous, of one floating dtype (never half precision) and on one device;
    sizes have been checked. Only `lengths` (int64, decreasing, on the CPU) is different: row r
    takes part in step t while t < lengths[r], its outputs after that are zero, and its h_n and
    c_n are those of its last step. Results are contiguous, new tensors.
    """

    def missing(self) -> str | None:
        """Return why this machine cannot have the backend at all, None where it can (cached)."""

    def unsupported(self, device: torch.device, dtype: torch.dtype, hidden_size: int) -> str | None:
        """Return why the backend cannot take such tensors, None where it can."""

    def workspace_shapes(
        self, steps: int, batch_size: int, input_size: int, hidden_size: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return the shapes of the two tensors that `forward` leaves for `backward`.

        They have the dtype of x; what they hold is the backend's affair. Arithmetic only: sizes
        may be symbols while torch.compile traces.
        """

    def forward(
        self,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        *,
        lengths: Tensor | None,
        save: bool,
        bf16_products: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return outputs [T, B, H], h_n and c_n [B, H], and the two workspaces.

        Without `save` the workspaces are empty, of shape [0].
        """

    def backward(
        self,
        grad_outputs: Tensor | None,
        grad_h_n: Tensor | None,
        grad_c_n: Tensor | None,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        outputs: Tensor,
        gates: Tensor,
        cells: Tensor,
        *,
        keep: Tensor | None,
        cell_keep: Tensor | None,
        lengths: Tensor | None,
        needs: Sequence[bool],
        bf16_products: bool,
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, h0, c0, w_ih, w_hh and of either bias, in this order.

        A gradient that nobody asked for (grad_...) is None, not a tensor of zeros, but not all
        three are. The masks are [T] or [T, B]. `needs` has a flag for each result; what it does
        not ask for may be None. Nothing that came in is written to: the caller may call twice.
        """


@cache
def load(name: str) -> Backend:
    return cast(Backend, importlib.import_module(MODULES[name]))


@cache
def _obstacle(name: str) -> str | None:
    """Return why `name` cannot be had on this machine; the first time, say it in the log."""
    reason = load(name).missing()
    if reason is not None:
        logger.warning("%s; the LSTM runs on the backend torch, which is slower", reason)
    return reason


def resolve(name: str, device: torch.device, dtype: torch.dtype, hidden_size: int) -> str:
    """Return the backend that a call with `name` runs on; the answer never changes.

    Raises:
        OptionError: there is no such backend, or it cannot take tensors of this kind.
    """
    if name not in NAMES:
        raise OptionError(f"backend is {name!r}; choose one of {', '.join(NAMES)}")
    if name == "reference":
        return name
    wanted = PREFERRED.get(device.type, "torch") if name == "auto" else name
    reason = load(wanted).unsupported(device, dtype, hidden_size)
    if reason is not None and name != "auto":
        raise OptionError(f"backend {name!r} {reason}; choose auto, which finds one that fits")
    return "torch" if reason is not None or _obstacle(wanted) is not None else wanted
