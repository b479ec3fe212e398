"""uRNN: its transition is unitary, made of the factors its paper names, and keeps every norm."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from training.methods import RecurrentMethod

HIDDEN = 7


@pytest.fixture
def network(build: Any) -> RecurrentMethod:
    return build("urnn", hidden=HIDDEN)  # type: ignore[no-any-return]


def factors(network: Any) -> Tensor:
    """Return W = D3 R2 F^-1 D2 Pi R1 F D1, each factor written out as a matrix."""
    angles = network.angles.detach()
    diagonal = [torch.diag(torch.complex(w.cos(), w.sin())) for w in angles]
    k = torch.arange(HIDDEN, dtype=torch.float64)
    turns = -2 * math.pi * torch.outer(k, k) / HIDDEN
    fourier = torch.complex(turns.cos(), turns.sin()) / math.sqrt(HIDDEN)
    reflections = []
    for real, imaginary in network.reflections.detach():
        v = torch.complex(real, imaginary).unsqueeze(1)
        reflections.append(
            torch.eye(HIDDEN) - 2 * (v @ v.conj().T) / torch.linalg.vector_norm(v) ** 2
        )
    permutation = torch.zeros(HIDDEN, HIDDEN, dtype=torch.complex128)
    permutation[torch.arange(HIDDEN), network.permutation] = 1.0
    d1, d2, d3 = diagonal
    r1, r2 = reflections
    return d3 @ r2 @ fourier.conj().T @ d2 @ permutation @ r1 @ fourier @ d1


def test_the_transition_is_unitary_and_made_of_the_papers_factors(network: Any) -> None:
    columns = []
    for n in range(HIDDEN):
        unit = torch.zeros(HIDDEN, dtype=torch.complex128)
        unit[n] = 1.0
        columns.append(network.turn(unit).detach())
    turned = torch.stack(columns, dim=1)
    torch.testing.assert_close(turned, factors(network), rtol=1e-12, atol=1e-12)
    identity = torch.eye(HIDDEN, dtype=torch.complex128)
    torch.testing.assert_close(turned.conj().T @ turned, identity, rtol=1e-12, atol=1e-12)


def test_it_stays_unitary_while_it_learns(network: Any, x: Tensor) -> None:
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    before = factors(network)
    for _ in range(3):
        optimiser.zero_grad()
        network(x)[0].square().mean().backward()
        optimiser.step()
    after = network.turn(torch.eye(HIDDEN, dtype=torch.complex128)).detach().T
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(
        after.conj().T @ after, torch.eye(HIDDEN, dtype=torch.complex128), rtol=0, atol=1e-12
    )


def test_the_norm_of_the_state_is_kept_over_a_thousand_steps(network: Any) -> None:
    still = torch.zeros(1000, 2, 3, dtype=torch.float64)
    outputs, _ = network(still)
    norms = outputs.norm(dim=-1)
    torch.testing.assert_close(norms, norms[0].expand_as(norms), rtol=1e-10, atol=0)
    assert norms[0, 0] > 0.1


def test_it_equals_a_naive_loop(network: Any, x: Tensor) -> None:
    with torch.no_grad():
        network.bias.copy_(torch.linspace(-0.5, 0.5, HIDDEN))
    turned = factors(network)
    weight = torch.complex(*network.weight_ih.detach().chunk(2))
    z = torch.complex(*network.first_state.detach()).expand(4, -1)
    expected, zeros = [], 0
    for t in range(len(x)):
        pushed = (turned @ z.T).T + x[t].to(weight.dtype) @ weight.T
        size = pushed.abs()
        z = torch.where(size + network.bias >= 0, (size + network.bias) * pushed / size, 0.0)
        zeros += int((z == 0).sum())
        expected.append(torch.cat([z.real, z.imag], dim=1).detach())
    assert zeros  # modReLU cut something off
    torch.testing.assert_close(network(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)
