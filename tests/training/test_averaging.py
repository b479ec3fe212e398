"""The running average against its definition, and that it comes and goes without a trace."""

import copy

import torch
from torch import nn

from training.averaging import WeightAverage


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def move(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_average_is_the_weighted_mean_of_what_it_saw() -> None:
    module, decay = small_module(), 0.9
    average = WeightAverage({"m": module}, decay)
    expected = module.state_dict()["0.weight"].double().clone()
    for step in range(1, 41):
        move(module, step)
        average.update(step)
        if step % 4 == 0:
            updates = step // 4
            keep = min(decay**4, updates / (updates + 9))
            expected = keep * expected + (1 - keep) * module.state_dict()["0.weight"].double()
    torch.testing.assert_close(
        average.tensors()["m.0.weight"].double(), expected, rtol=1e-5, atol=0
    )


def test_weights_are_back_to_the_bit_after_the_block() -> None:
    module = small_module()
    average = WeightAverage({"m": module}, 0.5)
    move(module, 1)
    average.update(4)
    live = copy.deepcopy(module.state_dict())
    held = {key: value.clone() for key, value in average.tensors().items()}
    with average.in_place():
        assert not torch.equal(module.state_dict()["0.weight"], live["0.weight"])
        assert torch.equal(module.state_dict()["0.weight"], held["m.0.weight"])
    assert all(torch.equal(value, live[key]) for key, value in module.state_dict().items())
    assert all(torch.equal(value, held[key]) for key, value in average.tensors().items())


def test_counters_are_copied_not_averaged() -> None:
    module = small_module()
    average = WeightAverage({"m": module}, 0.9)
    module(torch.randn(5, 3))
    average.update(4)
    assert average.tensors()["m.1.num_batches_tracked"].item() == 1


def test_a_restored_average_is_the_same() -> None:
    module = small_module()
    average = WeightAverage({"m": module}, 0.9)
    move(module, 1)
    average.update(4)
    stored = {key: value.clone() for key, value in average.tensors().items()}
    other = WeightAverage({"m": small_module()}, 0.9)
    other.restore(stored)
    assert all(torch.equal(value, stored[key]) for key, value in other.tensors().items())
