"""SAB: few stored states get weight, gradients go where the paper sends them, memory is bounded."""

from typing import Any

import torch
from torch import Tensor, nn

SHORT = {"top_k": 2, "truncation": 5, "store_every": 3, "attention_size": 4}


def naive(network: Any, x: Tensor, row: int) -> list[Tensor]:
    """Return the outputs for one sequence, stored state by stored state."""
    options = network.options
    h = c = torch.zeros(6, dtype=torch.float64)
    stored = [h]
    outputs = []
    for t in range(len(x)):
        if (t + 1) % options.truncation == 0:
            h, c = h.detach(), c.detach()
        gates = network.weight_ih @ x[t, row] + network.bias_ih
        i, f, g, o = (gates + network.weight_hh @ h + network.bias_hh).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        scores = [
            network.score @ torch.tanh(network.query @ h + network.key @ m + network.key_bias)
            for m in stored
        ]
        if len(scores) > options.top_k:
            threshold = sorted(scores, key=lambda one: one.item(), reverse=True)[options.top_k]
            above = [torch.clamp(score - threshold, min=0.0) for score in scores]
            scores = [one / sum(above) for one in above]
        summary = sum(
            (weight * m for weight, m in zip(scores, stored, strict=True)), torch.zeros(6)
        )
        h = h + summary
        if (t + 1) % options.store_every == 0:
            stored = [*stored, h][-options.memory_size :]
        outputs.append(torch.cat([h, summary]))
    return outputs


def test_outputs_and_gradients_are_those_of_a_naive_loop(build: Any, x: Tensor) -> None:
    for memory_size in (100, 3):
        network = build("sab", **SHORT, memory_size=memory_size)
        outputs, _ = network(x)
        expected = torch.stack([torch.stack(naive(network, x, row)) for row in range(4)], dim=1)
        torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-12)
        weights = list(network.parameters())
        got = torch.autograd.grad(outputs.square().sum(), weights)
        wanted = torch.autograd.grad(expected.square().sum(), weights)
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12)


def test_at_most_k_states_get_weight_and_their_weights_sum_to_one(build: Any) -> None:
    network = build("sab", **SHORT)
    h = torch.randn(50, 6, dtype=torch.float64)
    stored = torch.randn(50, 9, 6, dtype=torch.float64)
    keys = nn.functional.linear(stored, network.key, network.key_bias)
    weights = network.attend(h, keys).detach()
    assert (weights >= 0).all()
    assert ((weights > 0).sum(dim=1) == 2).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(50, dtype=torch.float64))
    asked_otherwise = network.attend(-3 * h, keys).detach()
    assert not torch.equal(weights > 0, asked_otherwise > 0)  # the present state has a say


def test_the_gradient_skips_what_is_truncated_and_not_looked_at(build: Any, x: Tensor) -> None:
    network = build("sab", top_k=1, truncation=5, store_every=100)  # only the zero state is stored
    x.requires_grad_()
    outputs, _ = network(x)
    (grad,) = torch.autograd.grad(outputs[-1].sum(), x)
    assert not grad[:19].any()  # cut before step 20 of 23
    assert grad[19:].any(dim=-1).all()


def test_the_memory_is_bounded(build: Any) -> None:
    network = build("sab", **SHORT, memory_size=8).eval()
    state = None
    for _ in range(20):
        with torch.no_grad():
            _, state = network(torch.randn(50, 1, 3, dtype=torch.float64), state)
    assert state[2].shape == (1, 8, 6)
    assert int(state[3]) == 1000
