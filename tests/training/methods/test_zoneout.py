"""Zoneout: zoned-out units stay to the bit, and at zero all is h-detach or a plain LSTM."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn


def twin(network: Any) -> nn.LSTM:
    """Return an nn.LSTM with the same weights."""
    lstm = nn.LSTM(3, 6).double()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(lstm, f"{name}_l0").copy_(getattr(network, name))
    return lstm


def naive(network: Any, x: Tensor, stays_h: Tensor, stays_c: Tensor, cut: list[bool]) -> Tensor:
    """Return the outputs of the equations, with `.detach()` at the steps that are cut."""
    h = c = torch.zeros(x.shape[1], 6, dtype=torch.float64)
    outputs = []
    for t in range(len(x)):
        h_in = h.detach() if cut[t] else h
        gates = nn.functional.linear(x[t], network.weight_ih, network.bias_ih)
        gates = gates + nn.functional.linear(h_in, network.weight_hh, network.bias_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        fresh = f.sigmoid() * c + i.sigmoid() * g.tanh()
        c = stays_c[t] * c + (1 - stays_c[t]) * fresh
        h = stays_h[t] * h_in + (1 - stays_h[t]) * o.sigmoid() * fresh.tanh()
        outputs.append(h)
    return torch.stack(outputs)


def test_zoned_out_units_are_unchanged_to_the_bit(build: Any, x: Tensor) -> None:
    network = build("zoneout", zoneout_c=0.5, zoneout_h=0.3)
    generator = torch.Generator().manual_seed(5)
    state = torch.rand(4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    shares = []
    for now in x.split(1):
        _, new = network(now, state, generator=generator)
        shares.append([(a == b).double().mean() for a, b in zip(state, new, strict=True)])
        state = tuple(one.detach() for one in new)
    same_h, same_c = torch.tensor(shares).mean(dim=0)
    assert abs(same_h - 0.3) < 0.08
    assert abs(same_c - 0.5) < 0.08


@pytest.mark.parametrize("training", [True, False])
def test_without_zoneout_and_detach_it_is_a_plain_lstm(
    build: Any, x: Tensor, training: bool
) -> None:
    network = build("zoneout", zoneout_c=0.0, zoneout_h=0.0).train(training)
    expected, (h_n, c_n) = twin(network)(x)
    outputs, (h, c) = network(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((h, c), (h_n[0], c_n[0]), rtol=1e-12, atol=1e-12)


def test_evaluation_takes_the_mean_of_the_draws(build: Any, x: Tensor) -> None:
    network = build("zoneout", zoneout_c=0.4, zoneout_h=0.2).eval()
    stays_h, stays_c = (torch.full((23, 1, 1), z, dtype=torch.float64) for z in (0.2, 0.4))
    expected = naive(network, x, stays_h, stays_c, [False] * 23)
    torch.testing.assert_close(network(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_gradients_are_those_of_a_naive_loop_with_detach(build: Any, x: Tensor, p: float) -> None:
    network = build("zoneout", p=p, zoneout_c=0.3, zoneout_h=0.2)
    outputs, _ = network(x, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)  # the order of the draws
    cut = (torch.rand(23, generator=generator) < p).tolist()
    stays_h = (torch.rand(23, 4, 6, generator=generator) < 0.2).double()
    stays_c = (torch.rand(23, 4, 6, generator=generator) < 0.3).double()
    expected = naive(network, x, stays_h, stays_c, cut)
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    weights = list(network.parameters())
    grad = torch.randn(outputs.shape, dtype=torch.float64, generator=generator)
    got = torch.autograd.grad(outputs, weights, grad)
    wanted = torch.autograd.grad(expected, weights, grad)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_the_values_are_the_same_for_every_p_and_annealing_ends_the_detaching(
    build: Any, x: Tensor
) -> None:
    def run(p: float, stop: bool) -> tuple[Tensor, Tensor]:
        network = build("zoneout", p=p)
        if stop:
            network.stop_detaching()
        outputs, _ = network(x, generator=torch.Generator().manual_seed(8))
        outputs.square().sum().backward()
        return outputs, network.weight_hh.grad

    plain, detached, annealed = run(0.0, False), run(0.6, False), run(0.6, True)
    assert torch.equal(plain[0], detached[0])
    assert not torch.allclose(plain[1], detached[1])
    assert torch.equal(plain[1], annealed[1])
