"""The Triton backend against the loop that defines the h-detach LSTM, in float64.

Values and the gradients of all operands are compared, relative to the largest of each. Products are
in full float32 on both sides, so errors are those of summing in another order.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captioner.lstm import hdetach_lstm
from captioner.lstm.several import several_lstms

_LEAST = 1e-3  # that an error is relative to


class Case(NamedTuple):
    steps: int
    rows: int
    inputs: int
    size: int
    mask: str  # shared by the rows, per sample, or none
    lengths: tuple[int, ...] | None
    asked: tuple[int, int, int]  # which of outputs, h_n and c_n are differentiated


CASES = (
    Case(1, 1, 1, 1, "shared", None, (1, 1, 1)),
    Case(6, 18, 3, 7, "per sample", None, (1, 1, 1)),
    Case(5, 3, 2, 70, "shared", None, (1, 0, 0)),
    Case(4, 2, 2, 128, "none", None, (0, 1, 0)),
    Case(7, 4, 3, 20, "shared", (7, 5, 5, 1), (1, 1, 1)),
    Case(7, 4, 3, 5, "per sample", (7, 5, 5, 1), (0, 0, 1)),
)
OF_BENCHMARKS = (
    Case(120, 100, 1, 128, "shared", None, (1, 0, 0)),
    Case(784, 100, 1, 100, "shared", None, (0, 1, 0)),
)


def errors(
    cases: Sequence[Case], device: torch.device, backend: str = "triton"
) -> Iterator[dict[str, Any]]:
    """Yield for each case the largest relative error of values and of gradients."""
    generator = torch.Generator().manual_seed(0)
    for case in cases:
        drawn = _draw(case, generator)
        expected = drawn.results(device, torch.float64, "reference")
        found = drawn.results(device, torch.float32, backend)
        with torch.no_grad():  # takes another way where nothing is saved
            single = [one.to(device, torch.float32) for one in drawn.tensors]
            plain = run_lstm(single, (None, None), backend, drawn.lengths)
        yield {
            **case._asdict(),
            "values": max(map(_error, [*found[:3], *plain], [*expected[:3], *expected[:3]])),
            "gradients": max(map(_error, found[3:], expected[3:])),
        }


def errors_of_several(
    models: int, case: Case, device: torch.device, backend: str = "triton"
) -> dict[str, Any]:
    """Return the errors of models that share a launch, against each by itself in float64."""
    generator = torch.Generator().manual_seed(1)
    drawn = [_draw(case, generator) for _ in range(models)]

    def stacked(number: int, dim: int = 0) -> Tensor:
        return torch.stack([one.tensors[number] for one in drawn], dim).to(device).float()

    x, w_ih, w_hh = stacked(0, 1), stacked(3), stacked(4)
    bias = stacked(5) + stacked(6)
    leaves = [one.requires_grad_() for one in (x, w_ih, w_hh, bias)]
    keep = torch.rand(case.steps, models, generator=generator, dtype=torch.float64).to(device)
    grads = torch.rand(*x.shape[:3], case.size, generator=generator, dtype=torch.float64) - 0.5
    outputs, _ = several_lstms(x, w_ih, w_hh, bias, keep, backend)
    found = [outputs.detach(), *torch.autograd.grad(outputs, leaves, grads.to(device).float())]
    worst = [0.0] * len(found)
    for number, one in enumerate(drawn):
        start = torch.zeros(case.rows, case.size, dtype=torch.float64)
        tensors = [one.tensors[0], start, start, *one.tensors[3:]]
        alone = Drawn(tensors, [grads[:, number], None, None], [keep[:, number], None], None)
        exact = alone.results(device, torch.float64, "reference")
        wanted = (exact[0], exact[3], exact[6], exact[7], exact[8])
        own = (found[0][:, number], found[1][:, number], *(grad[number] for grad in found[2:]))
        worst = list(map(max, worst, map(_error, own, wanted)))
    values, *gradients = worst
    named = {**case._asdict(), "mask": f"{models} models", "asked": (1, 0, 0)}
    return {**named, "values": values, "gradients": max(gradients)}


class Drawn(NamedTuple):
    """The numbers of a case, on the CPU in float64."""

    tensors: list[Tensor]  # the operands
    grads: list[Tensor | None]  # of the three results
    masks: list[Tensor | None]
    lengths: Tensor | None

    def results(self, device: torch.device, dtype: torch.dtype, backend: str) -> list[Tensor]:
        """Return the three results of a backend, then the gradients of all operands."""
        return differentiate(
            [one.to(device, dtype) for one in self.tensors],
            [None if one is None else one.to(device, dtype) for one in self.grads],
            [None if one is None else one.to(device) for one in self.masks],
            backend,
            self.lengths,
        )


def differentiate(
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    backend: str,
    lengths: Tensor | None,
) -> list[Tensor]:
    """Return the three results, then the gradients of all operands."""
    leaves = [one.clone().requires_grad_() for one in tensors]
    results = run_lstm(leaves, masks, backend, lengths)
    pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None]
    found = torch.autograd.grad(
        [r for r, _ in pairs],
        leaves,
        [g for _, g in pairs],
        allow_unused=True,
        materialize_grads=True,
    )
    return [one.detach() for one in (*results, *found)]


def run_lstm(
    tensors: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    backend: str,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = tensors
    keep, cell_keep = masks
    return hdetach_lstm(
        *(x, h0, c0, w_ih, w_hh, b_ih, b_hh, keep, cell_keep, backend), lengths=lengths
    )


def _draw(case: Case, generator: torch.Generator) -> Drawn:
    steps, rows, inputs, size, mask, lengths, asked = case

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    shapes = (
        *((steps, rows, inputs), (rows, size), (rows, size)),
        *((4 * size, inputs), (4 * size, size), (4 * size,), (4 * size,)),
    )
    tensors = [(rand(*shape) * 2 - 1) * size**-0.5 for shape in shapes]
    grads = [
        rand(*shape) * 2 - 1 if ask else None
        for ask, shape in zip(asked, ((steps, rows, size), (rows, size), (rows, size)), strict=True)
    ]
    masks: list[Tensor | None] = [None, None]
    if mask == "shared":
        masks = [(rand(steps) - 0.4).clamp_min(0.0), rand(steps)]
    elif mask == "per sample":
        masks = [rand(steps, rows), (rand(steps, rows) < 0.5).double()]
    return Drawn(tensors, grads, masks, None if lengths is None else torch.tensor(lengths))


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(_LEAST))
