"""The random generators of a run, one for each purpose, all derived from one seed.

Separate generators keep the purposes apart: another `--p` draws other masks, yet meets the same
initial weights and the same order of images. What is drawn per epoch comes from a generator made
for that epoch, so resuming needs no memory of it; masks and dropout go on from a stored state.
"""

import hashlib
from dataclasses import dataclass

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


@dataclass(frozen=True)
class StepGenerators:
    """The generators that are drawn from at every step."""

    masks: torch.Generator
    dropout: torch.Generator  # on the device of the training

    @classmethod
    def derived(cls, seed: int, device: torch.device) -> "StepGenerators":
        return cls(
            masks=derived_generator(seed, "masks"),
            dropout=derived_generator(seed, "dropout", device=device),
        )

    def state(self) -> dict[str, Tensor]:
        return {"masks": self.masks.get_state(), "dropout": self.dropout.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.masks.set_state(state["masks"])
        if state["dropout"].shape == self.dropout.get_state().shape:
            self.dropout.set_state(state["dropout"])  # else the run goes on upon another device
