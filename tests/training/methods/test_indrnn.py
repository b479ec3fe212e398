"""IndRNN: the recurrence goes element by element, and its weights are bounded."""

from typing import Any

import torch
from torch import Tensor


def test_it_equals_a_naive_loop_unit_by_unit(build: Any, x: Tensor) -> None:
    network = build("indrnn", layers=2)
    outputs, _ = network(x)
    seen = x
    for weight, own, bias in zip(network.weights, network.recurrents, network.biases, strict=True):
        states = torch.zeros(len(x) + 1, 4, 6, dtype=torch.float64)
        for t in range(len(x)):
            for n in range(6):
                pushed = seen[t] @ weight[n] + own[n] * states[t, :, n] + bias[n]
                states[t + 1, :, n] = pushed.clamp(min=0.0).detach()
        seen = states[1:]
    torch.testing.assert_close(outputs, seen, rtol=1e-12, atol=1e-12)


def test_the_jacobian_of_a_step_is_diagonal(build: Any) -> None:
    network = build("indrnn", layers=1)
    now = torch.rand(1, 1, 3, dtype=torch.float64)

    def step(h: Tensor) -> Tensor:
        return network(now, (h.unsqueeze(0),))[0][0, 0]

    h = torch.rand(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(step, h)
    own = network.recurrents[0].detach()
    is_running = step(h).detach() > 0
    assert is_running.any()
    torch.testing.assert_close(jacobian, torch.diag(own * is_running))


def test_no_recurrent_weight_acts_beyond_its_bound(build: Any) -> None:
    network = build("indrnn", layers=1, recurrent_bound=0.5)
    assert network.recurrents[0].abs().max() <= 0.5
    with torch.no_grad():
        network.recurrents[0].copy_(torch.tensor([9.0, -9.0, 0.1, 0.2, 0.3, 0.4]))
        network.biases[0].fill_(10.0)  # every unit is running
    still = torch.zeros(1, 1, 3, dtype=torch.float64)
    outputs, _ = network(still, (torch.ones(1, 6, dtype=torch.float64),))
    torch.testing.assert_close(
        outputs[0, 0] - 10.0, torch.tensor([0.5, -0.5, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    )
