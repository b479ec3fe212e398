"""The learning rate over a run, the groups of the optimiser, and its stored state."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from training.config import TrainingConfig
from training.optimisation import (
    build_optimiser,
    clip_gradients,
    encoder_lr_factor,
    lr_factor,
    optimiser_tensors,
    restore_optimiser,
    set_lr,
)


def test_warm_up_then_cosine_to_almost_nothing() -> None:
    config = TrainingConfig(lr_schedule="cosine", warmup_steps=10)
    factors = [lr_factor(step, 110, config) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    assert all(after <= before for before, after in pairwise(factors[10:]))


def test_a_constant_rate_stays() -> None:
    assert {lr_factor(step, 9, TrainingConfig()) for step in range(9)} == {1.0}


def test_an_encoder_that_was_frozen_warms_up_when_it_is_trained() -> None:
    config = TrainingConfig(warmup_steps=4, epochs=3, frozen_epochs=1, fine_tune_encoder="all")
    factors = [encoder_lr_factor(step, 30, 10, config) for step in range(10, 30)]
    assert factors == [0.25, 0.5, 0.75, *[1.0] * 17]
    without = TrainingConfig(warmup_steps=4, epochs=3, fine_tune_encoder="all")
    assert encoder_lr_factor(1, 30, 10, without) == lr_factor(1, 30, without) == 0.5


def test_encoder_has_its_own_rate_and_vectors_do_not_decay() -> None:
    decoder, encoder = nn.Linear(4, 3), nn.Linear(2, 4)
    config = TrainingConfig(lr=1e-3, encoder_lr=1e-5, weight_decay=0.1)
    optimiser = build_optimiser(decoder, list(encoder.parameters()), config)
    set_lr(optimiser, 0.5, 0.25)
    found = [(group["lr"], group["weight_decay"]) for group in optimiser.param_groups]
    assert found == [(5e-4, 0.1), (5e-4, 0.0), (2.5e-6, 0.1), (2.5e-6, 0.0)]


def test_without_decay_it_is_plain_adam() -> None:
    torch.manual_seed(0)
    ours, plain = nn.Linear(3, 3), nn.Linear(3, 3)
    plain.load_state_dict(ours.state_dict())
    optimisers = [
        build_optimiser(ours, [], TrainingConfig(lr=1e-2)),
        torch.optim.Adam(plain.parameters(), lr=1e-2),
    ]
    inputs = torch.randn(5, 3)
    for _ in range(5):
        for module, optimiser in zip((ours, plain), optimisers, strict=True):
            optimiser.zero_grad()
            module(inputs).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours.weight, plain.weight)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimiser_takes_the_same_steps(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    module, inputs = nn.Conv2d(3, 8, 3), torch.randn(2, 3, 6, 6)
    module.to(memory_format=memory_format)

    def step(optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        module(inputs.contiguous(memory_format=memory_format)).square().sum().backward()
        optimiser.step()

    optimiser = build_optimiser(module, [], TrainingConfig(lr=0.1))
    step(optimiser)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    # A file keeps no memory format: what comes back from it is contiguous.
    tensors = {
        key: value.contiguous().clone() for key, value in optimiser_tensors(optimiser).items()
    }
    step(optimiser)
    expected = module.weight.clone()
    module.load_state_dict(weights)
    fresh = build_optimiser(module, [], TrainingConfig(lr=0.1))
    restore_optimiser(fresh, tensors)
    step(fresh)
    assert torch.equal(module.weight, expected)


def test_gradients_are_bounded_as_asked() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, -4.0])
    clip_gradients([parameter], TrainingConfig())
    assert parameter.grad.tolist() == [3.0, -4.0]
    clip_gradients([parameter], TrainingConfig(clip_norm=1.0))
    assert parameter.grad.norm() == pytest.approx(1.0, rel=1e-4)
    parameter.grad = torch.tensor([3.0, -4.0])
    clip_gradients([parameter], TrainingConfig(clip_value=0.1))
    assert parameter.grad.tolist() == pytest.approx([0.1, -0.1])
