"""What is drawn depends on seed and purpose alone."""

import torch

from training.randomness import derived_generator


def draw(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


def test_a_purpose_and_a_seed_give_one_stream() -> None:
    first = draw(derived_generator(3, "order", 1))
    assert draw(derived_generator(3, "order", 1)) == first
    others = [(4, "order", 1), (3, "masks", 1), (3, "order", 2)]
    assert all(draw(derived_generator(*other)) != first for other in others)
