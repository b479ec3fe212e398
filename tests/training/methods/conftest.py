"""Networks of the methods in float64, and numbers to read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from training.methods import RecurrentMethod, load_method

Build = Callable[..., RecurrentMethod]


@pytest.fixture
def build() -> Build:
    """A function from a method's name, sizes and options to a network with weights of seed 0."""

    def make(name: str, inputs: int = 3, hidden: int = 6, **options: Any) -> RecurrentMethod:
        loaded = load_method(name)
        generator = torch.Generator().manual_seed(0)
        network = loaded.method(inputs, hidden, loaded.options(**options), generator=generator)
        return network.double()

    return make


@pytest.fixture
def x() -> Tensor:
    """23 steps of 4 sequences of 3 inputs."""
    return torch.randn(23, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
