"""What is drawn depends on seed and purpose alone, and a stored state goes on exactly."""

import torch

from training.randomness import derived_generator, generator_states, restore_generators


def draw(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


def test_a_purpose_and_a_seed_give_one_stream() -> None:
    first = draw(derived_generator(3, "order", 1))
    assert draw(derived_generator(3, "order", 1)) == first
    others = [(4, "order", 1), (3, "masks", 1), (3, "order", 2)]
    assert all(draw(derived_generator(*other)) != first for other in others)


def test_a_restored_state_goes_on_where_it_was() -> None:
    names = ("masks", "dropout")
    generators = {name: derived_generator(0, name) for name in names}
    [draw(generator) for generator in generators.values()]
    states = {name: state.clone() for name, state in generator_states(generators).items()}
    expected = [draw(generator) for generator in generators.values()]
    fresh = {name: derived_generator(0, name) for name in names}
    restore_generators(fresh, states)
    assert [draw(generator) for generator in fresh.values()] == expected
