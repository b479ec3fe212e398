"""What is drawn depends on seed and purpose alone, and a stored state goes on exactly."""

import torch

from training.randomness import StepGenerators, derived_generator


def draw(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


def test_a_purpose_and_a_seed_give_one_stream() -> None:
    first = draw(derived_generator(3, "order", 1))
    assert draw(derived_generator(3, "order", 1)) == first
    others = [(4, "order", 1), (3, "masks", 1), (3, "order", 2)]
    assert all(draw(derived_generator(*other)) != first for other in others)


def test_a_restored_state_goes_on_where_it_was() -> None:
    generators = StepGenerators.derived(0, torch.device("cpu"))
    draw(generators.masks), draw(generators.dropout)
    state = {name: value.clone() for name, value in generators.state().items()}
    expected = draw(generators.masks), draw(generators.dropout)
    fresh = StepGenerators.derived(0, torch.device("cpu"))
    fresh.restore(state)
    assert (draw(fresh.masks), draw(fresh.dropout)) == expected
