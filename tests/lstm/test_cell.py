"""One step at a time gives what the whole sequence gives, and `nn.LSTMCell` what it gave."""

import pytest
import torch
from torch import nn

from captioner.lstm import HDetachLSTMCell, hdetach_lstm, hdetach_step


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("mask", ["shared", "per sample"])
def test_a_loop_of_steps_has_the_gradients_of_the_sequence(mask):
    cell = HDetachLSTMCell(3, 4, dtype=torch.float64)
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    keep, cell_keep = torch.rand(2, 7, 2) if mask == "per sample" else torch.rand(2, 7)
    h = c = torch.zeros(2, 4, dtype=torch.float64)
    outputs = []
    for t in range(7):
        h, c = cell(x[t], (h, c), keep=keep[t], cell_keep=cell_keep[t])
        outputs.append(h)
    weights = list(cell.parameters())
    found = torch.autograd.grad(torch.stack(outputs).square().sum(), weights)
    zeros = torch.zeros(2, 4, dtype=torch.float64)
    whole, _, _ = hdetach_lstm(x, zeros, zeros, *weights, keep, cell_keep)
    expected = torch.autograd.grad(whole.square().sum(), weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_cell_stands_in_for_torchs(bias):
    theirs = nn.LSTMCell(3, 4, bias=bias)
    ours = HDetachLSTMCell(3, 4, bias=bias)
    ours.load_state_dict(theirs.state_dict())
    x, state = torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4))
    one = state[0][0], state[1][0]
    for given in ((x,), (x, state), (x[0],), (x[0], one)):
        torch.testing.assert_close(ours(*given), theirs(*given))
    for given in ((torch.ones(2, 2, 3),), (torch.ones(()),)):
        messages = set()
        for cell in (theirs, ours):
            with pytest.raises(ValueError, match="Expected input to be 1D or 2D") as problem:
                cell(*given)
            messages.add(str(problem.value))
        assert len(messages) == 1


def test_a_step_in_evaluation_detaches_nothing():
    cell = HDetachLSTMCell(3, 4).eval()
    h = torch.randn(2, 4, requires_grad=True)
    cell(torch.randn(2, 3), (h, torch.zeros(2, 4)), keep=0.0)[0].sum().backward()
    assert h.grad.abs().sum() > 0
    h.grad = None
    cell.train()(torch.randn(2, 3), (h, torch.zeros(2, 4)), keep=0.0)[0].sum().backward()
    assert torch.equal(h.grad, torch.zeros(2, 4))


def test_the_function_takes_a_number_for_a_mask():
    weights = [torch.randn(16, 3), torch.randn(16, 4), None, None]
    h = torch.randn(2, 4, requires_grad=True)
    step = (torch.randn(2, 3), h, torch.randn(2, 4), *weights)
    full, half = (
        torch.autograd.grad(hdetach_step(*step, keep=keep)[0].sum(), h)[0] for keep in (1.0, 0.5)
    )
    torch.testing.assert_close(half, full / 2)
