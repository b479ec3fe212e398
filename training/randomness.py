"""Random generators of a run, one for each purpose, all derived from one seed.

Separate generators keep the purposes apart: another `--p` draws other masks, but gets the same
initial weights and the same order of images. Draws of an epoch come from a generator made for that
epoch, so resuming needs no state for them. The generators of masks and dropout are stored and
resumed.
"""

import hashlib

import torch


def derived_generator(
    seed: int, *purpose: str | int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return a generator that depends on the seed and the purpose, and on nothing else."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest[:7], "little"))
    return generator
