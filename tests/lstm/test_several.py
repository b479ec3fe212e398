"""Several LSTMs side by side are each the loop of its own, in one launch and one by one."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioner.lstm.operands import OperandError
from captioner.lstm.operator import hdetach_lstm
from captioner.lstm.several import several_lstms

ROOT = Path(__file__).resolve().parents[2]
STEPS, MODELS, ROWS, INPUTS, SIZE = 5, 3, 18, 2, 7  # rows of two programs


def drawn(dtype: torch.dtype) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Return operands, a mask for each model, and gradients of both results."""
    generator = torch.Generator().manual_seed(4)
    shapes = (
        (STEPS, MODELS, ROWS, INPUTS),
        *((MODELS, 4 * SIZE, INPUTS), (MODELS, 4 * SIZE, SIZE), (MODELS, 4 * SIZE)),
    )
    operands = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    keep = (torch.rand(STEPS, MODELS, generator=generator) < 0.5).to(dtype)
    grads = [
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((STEPS, MODELS, ROWS, SIZE), (MODELS, ROWS, SIZE))
    ]
    return operands, keep, grads


def one_by_one(operands: list[Tensor], keep: Tensor | None, grads: list[Tensor]) -> list[Tensor]:
    """Return results and gradients of the defining loop, model by model."""
    leaves = [one.clone().requires_grad_() for one in operands]
    x, w_ih, w_hh, bias = leaves
    start = x.new_zeros(ROWS, SIZE)
    results = [
        hdetach_lstm(
            *(x[:, s], start, start, w_ih[s], w_hh[s], bias[s], None),
            None if keep is None else keep[:, s],
            backend="reference",
        )
        for s in range(MODELS)
    ]
    found = [torch.stack([one[0] for one in results], 1), torch.stack([one[2] for one in results])]
    return [one.detach() for one in (*found, *torch.autograd.grad(found, leaves, grads))]


def side_by_side(
    operands: list[Tensor], keep: Tensor | None, grads: list[Tensor], backend: str
) -> list[Tensor]:
    leaves = [one.clone().requires_grad_() for one in operands]
    found = several_lstms(*leaves, keep, backend)
    return [one.detach() for one in (*found, *torch.autograd.grad(found, leaves, grads))]


def check(backend: str) -> None:
    operands, keep, grads = drawn(torch.float32)
    exact = [[one.double() for one in some] for some in (operands, grads)]
    for mask in (keep, None):
        wanted = one_by_one(exact[0], None if mask is None else mask.double(), exact[1])
        for one, other in zip(side_by_side(operands, mask, grads, backend), wanted, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_one_by_one_they_are_the_loop() -> None:
    check("torch")


def test_in_one_launch_they_are_the_loop() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    code = """
        from tests.lstm.test_several import check

        check("triton")
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_shapes_that_do_not_fit_are_named() -> None:
    (x, w_ih, w_hh, bias), keep, _ = drawn(torch.float32)
    with pytest.raises(OperandError, match=r"w_hh has shape \[2, 28, 7\]; 3 LSTMs of 7 units"):
        several_lstms(x, w_ih, w_hh[:2], bias)
    with pytest.raises(OperandError, match=r"keep has shape \[3, 5\]; .* need \[5, 3\]"):
        several_lstms(x, w_ih, w_hh, bias, keep.t())
    with pytest.raises(OperandError, match="needs four sizes above 0"):
        several_lstms(x[0], w_ih, w_hh, bias)
