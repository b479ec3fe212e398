"""Random generators of a run, one for each purpose, all derived from one seed.

Separate generators keep the purposes apart: another `--p` draws other masks, but gets the same
initial weights and the same order of images. Draws of an epoch come from a generator made for that
epoch, so resuming needs no state for them. The generators of masks and dropout are stored and
resumed.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def derived_generator(
    seed: int, *purpose: str | int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return a generator that depends on the seed and the purpose, and on nothing else."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest[:7], "little"))
    return generator


def generator_states(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """Return the state of each generator, by name."""
    return {name: generator.get_state() for name, generator in generators.items()}


def restore_generators(
    generators: Mapping[str, torch.Generator], states: Mapping[str, Tensor]
) -> None:
    """Put back what `generator_states` returned.

    A state of another kind of device is left out: the run goes on there with fresh draws.
    """
    for name, generator in generators.items():
        if states[name].shape == generator.get_state().shape:
            generator.set_state(states[name])
