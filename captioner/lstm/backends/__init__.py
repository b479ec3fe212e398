"""Backends of the h-detach LSTM, and the choice of one for a call.

A backend is a module with the functions of `Backend`. All give the same results; they differ in
speed and in what they need. If a backend is asked for that this machine cannot have (no compiler),
one line in the log says so and `torch` is used. If it cannot take the tensors, that is an error.
`reference` is not a module of this kind, but plain autograd.
"""

import importlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol, cast

import torch

from captioner.errors import OptionError
from captioner.lstm.operands import (
    ForwardResults,
    Gradients,
    GradResults,
    Masks,
    Needs,
    Operands,
    Saved,
)

logger = logging.getLogger(__name__)

MODULES = {
    "torch": "captioner.lstm.backends.torch_backend",
    "cpu": "captioner.lstm.backends.cpu_backend",
    "triton": "captioner.lstm.backends.triton_backend",
}
NAMES = ("auto", "reference", *MODULES)
# What `auto` prefers, by the type of the device.
PREFERRED = {"cpu": "cpu", "cuda": "triton"}


class Backend(Protocol):
    """What a backend's module holds; results are contiguous, new tensors."""

    HAS_PROJECTION: bool  # whether it takes operands with `w_hr`

    def missing(self) -> str | None:
        """Return why this machine cannot have the backend at all, None where it can (cached)."""

    def unsupported(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return why the backend cannot take such tensors, None where it can."""

    def workspace_shapes(
        self, steps: int, batch_size: int, hidden_size: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return the shapes of the two tensors that `forward` leaves for `backward`.

        They have the dtype of x; what they hold is the backend's affair. Arithmetic only: sizes
        may be symbols while torch.compile traces.
        """

    def forward(self, operands: Operands, *, save: bool) -> ForwardResults:
        """Run all steps. Without `save` the workspaces are empty, of shape [0]."""

    def backward(
        self, grads: GradResults, operands: Operands, saved: Saved, masks: Masks, needs: Needs
    ) -> Gradients:
        """Return the gradients of the operands.

        Nothing that came in is written to: the caller may call twice.
        """


@cache
def load(name: str) -> Backend:
    return cast(Backend, importlib.import_module(MODULES[name]))


@cache
def _why_missing(name: str) -> str | None:
    """Return why `name` cannot be had on this machine; the first time, say it in the log."""
    reason = load(name).missing()
    if reason is not None:
        logger.warning("%s; the LSTM runs on the backend torch, which is slower", reason)
    return reason


def resolve(
    name: str, device: torch.device, dtype: torch.dtype, *, has_projection: bool = False
) -> str:
    """Return the backend that a call with `name` runs on; the answer never changes.

    A backend without projections leaves them to `torch`.

    Raises:
        OptionError: there is no such backend, or it cannot take tensors of this kind.
    """
    if name not in NAMES:
        raise OptionError(f"backend is {name!r}; choose one of {', '.join(NAMES)}")
    if name == "reference":
        return name
    wanted = PREFERRED.get(device.type, "torch") if name == "auto" else name
    reason = load(wanted).unsupported(device, dtype)
    if reason is not None and name != "auto":
        raise OptionError(f"backend {name!r} {reason}; choose auto, which finds one that fits")
    if reason is not None or (has_projection and not load(wanted).HAS_PROJECTION):
        return "torch"
    return wanted if _why_missing(wanted) is None else "torch"
