"""One caption after the other, a sum of sorted lists, and nothing that PyTorch's engine has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captioner.checkpoint import Checkpoint, load_checkpoint
from captioner.engines import Candidates, Engine, LoadedEngine
from captioner.features import Features
from captioner.vocabulary import PAD, START, UNKNOWN


class ToyEngine(Engine):
    name = "toy"
    images_searched = 0

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = checkpoint
        self.preprocessing = checkpoint.encoder.preprocessing
        self.grid = checkpoint.encoder.grid

    @classmethod
    def load(cls, folder: Path, device: str, threads: int | None) -> LoadedEngine:  # noqa: ARG003
        checkpoint = load_checkpoint(folder)
        return LoadedEngine(
            cls(checkpoint), checkpoint.vocabulary, checkpoint.hash, checkpoint.summary
        )

    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        return Features.cat([self.model.encoder.encode([image]) for image in pixels]).numpy()

    def begin(self, features: Features) -> "ToyDecoding":
        ToyEngine.images_searched += len(features)
        return ToyDecoding(self.model.decoder, features.to("cpu"))

    def describe(self) -> dict[str, Any]:
        return {"engine": "toy"}


class ToyDecoding:
    """Asks the decoder about each caption alone, from its first word on."""

    attributes = None  # it attends to the grid alone

    def __init__(self, decoder: Any, features: Features) -> None:
        self.decoder = decoder
        self.images = [features.select(slice(one, one + 1)) for one in range(len(features))]
        self.read: list[list[list[int]]] = [[[]] for _ in self.images]

    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        self.read = [
            [[*before[parent], word] for word, parent in zip(*new, strict=True)]
            for before, *new in zip(self.read, words.tolist(), parents.tolist(), strict=True)
        ]
        log_probs = np.array(
            [
                [self.after(features, caption) for caption in captions]
                for features, captions in zip(self.images, self.read, strict=True)
            ],
            dtype=np.float32,
        )
        order = np.argsort(-log_probs, axis=2, kind="stable")[..., :count]
        asked = [of_image[:, ids] for of_image, ids in zip(log_probs, wanted, strict=True)]
        return Candidates(
            np.take_along_axis(log_probs, order, axis=2), order, np.stack(asked), None
        )

    def keep(self, images: np.ndarray) -> None:
        self.images = [self.images[image] for image in images]
        self.read = [self.read[image] for image in images]

    @torch.no_grad()
    def after(self, features: Features, caption: list[int]) -> np.ndarray:
        memory = self.decoder.prepare(features)
        state = self.decoder.start(memory)
        for word in caption:
            logits, state, _ = self.decoder.step(torch.tensor([[word]]), state, memory)
        log_probs = logits[0, 0].log_softmax(0)
        log_probs[[PAD, START, UNKNOWN]] = -torch.inf
        return log_probs.numpy()
