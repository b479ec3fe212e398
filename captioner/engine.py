"""Engines, which run a captioner's model: from pixels to features, and from features to words.

An engine decides on devices, batch sizes and the library that computes. `captioner.captioner` knows
photographs and how words are written.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from captioner.devices import choose_device
from captioner.encoder.interface import Encoder
from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import OptionError
from captioner.features import Features
from captioner.search import Hypothesis, search
from captioner.search_config import SearchConfig
from captioner.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner.decoders import Decoder


class Engine(ABC):
    """Runs one model."""

    preprocessing: Preprocessing
    grid: int  # positions along each side of the grid that captions look at
    encoder: Encoder | None = None  # the one that runs, if PyTorch can run it without the engine

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, device: str) -> "LoadedEngine":
        """Return an engine for the model in `folder`, as `captioner.load` says.

        Raises:
            OptionError: there is no such device.
            CheckpointError: there is no sound model; the message names the file.
        """

    @abstractmethod
    def encode(self, pixels: Sequence[Tensor]) -> Features:
        """Return the features of images, each uint8 [3, height, width] as `preprocessing` reads it.

        The work is done when this returns.
        """

    @abstractmethod
    def search(
        self, features: Features, config: SearchConfig | Sequence[SearchConfig]
    ) -> list[list[Hypothesis]]:
        """Return the best captions of every image, the best first, with a configuration for each.

        Raises:
            CaptionerError: the model gives no word a probability.
        """


class LoadedEngine(NamedTuple):
    """An engine with what else the folder of its model holds."""

    engine: Engine
    vocabulary: Vocabulary
    hash: str  # SHA-256: the name of exactly these contents
    summary: dict[str, Any]  # of the training that made it


class TorchEngine(Engine):
    """PyTorch on one device, with an encoder and a decoder that are put there."""

    encoder: Encoder

    def __init__(
        self, encoder: Encoder, decoder: "Decoder", device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.encoder = encoder.to(self.device).eval()
        self.decoder = decoder.to(self.device).eval()
        self.preprocessing = encoder.preprocessing
        self.grid = encoder.grid

    @classmethod
    def load(cls, folder: Path, device: str) -> LoadedEngine:
        from captioner.checkpoint import load_checkpoint

        chosen = choose_device(device)
        checkpoint = load_checkpoint(folder, chosen)
        engine = cls(checkpoint.encoder, checkpoint.decoder, chosen)
        return LoadedEngine(engine, checkpoint.vocabulary, checkpoint.hash, checkpoint.summary)

    def encode(self, pixels: Sequence[Tensor]) -> Features:
        if not pixels:
            return Features(torch.empty(0, device=self.device))
        features = self.encoder.encode(pixels)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return features

    def search(
        self, features: Features, config: SearchConfig | Sequence[SearchConfig]
    ) -> list[list[Hypothesis]]:
        return search(self.decoder, features, config)


ENGINES: dict[str, type[Engine]] = {"torch": TorchEngine}


def load_engine(name: str, folder: Path, device: str) -> LoadedEngine:
    """Return the engine of this name for the model in `folder`, as `Engine.load` does.

    Raises:
        OptionError: there is no such engine.
    """
    if name not in ENGINES:
        raise OptionError(f"engine is {name!r}; choose one of {', '.join(ENGINES)}")
    return ENGINES[name].load(folder, device)
