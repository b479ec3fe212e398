"""IRNN: begins as the identity, and is the loop that its paper writes."""

from typing import Any

import torch
from torch import Tensor


def test_it_begins_as_the_identity(build: Any) -> None:
    network = build("irnn", hidden=50)
    assert torch.equal(network.weight_hh, torch.eye(50, dtype=torch.float64))
    assert not network.bias.any()
    assert 0.0008 < network.weight_ih.std() < 0.0012
    assert torch.equal(
        build("irnn", recurrent_scale=0.5).weight_hh, 0.5 * torch.eye(6, dtype=torch.float64)
    )


def test_a_state_without_input_stays_and_so_does_its_gradient(build: Any) -> None:
    network = build("irnn")
    h0 = torch.rand(4, 6, dtype=torch.float64, requires_grad=True)
    outputs, _ = network(torch.zeros(500, 4, 3, dtype=torch.float64), (h0,))
    assert torch.equal(outputs[-1], h0)
    outputs[-1].sum().backward()
    assert torch.equal(h0.grad, torch.ones_like(h0))


def test_it_equals_a_naive_loop(build: Any, x: Tensor) -> None:
    network = build("irnn")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    h = torch.zeros(4, 6, dtype=torch.float64)
    expected = []
    for t in range(len(x)):
        h = torch.clamp(
            h @ network.weight_hh.T + x[t] @ network.weight_ih.T + network.bias, min=0.0
        )
        expected.append(h)
    outputs, (last,) = network(x)
    torch.testing.assert_close(outputs, torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert torch.equal(last, outputs[-1])
    loss = torch.stack(expected).square().sum()
    wanted = torch.autograd.grad(loss, list(network.parameters()))
    got = torch.autograd.grad(outputs.square().sum(), list(network.parameters()))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
