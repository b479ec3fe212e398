"""Greedy search, one image after the other, and nothing that PyTorch's engine has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.checkpoint import Checkpoint, load_checkpoint
from captioner.engines import Decoding, Engine, LoadedEngine
from captioner.features import Features
from captioner.search import Hypothesis
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, PAD, START, UNKNOWN


class ToyEngine(Engine):
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

    def encode(self, pixels: Sequence[Tensor]) -> Features:
        return Features.cat([self.model.encoder.encode([image]) for image in pixels])

    def begin(self, features: Features) -> Decoding:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"engine": "toy"}

    @torch.no_grad()
    def search(
        self, features: Features, config: SearchConfig | Sequence[SearchConfig]
    ) -> list[list[Hypothesis]]:
        configs = [config] * len(features) if isinstance(config, SearchConfig) else config
        found = []
        for image, of_image in enumerate(configs):
            ToyEngine.images_searched += 1
            found.append([self.greedy(features.select(slice(image, image + 1)), of_image)])
        return found

    def greedy(self, features: Features, config: SearchConfig) -> Hypothesis:
        memory = self.model.decoder.prepare(features)
        state, word, words, total = self.model.decoder.start(memory), START, [], 0.0
        while len(words) < config.max_length:
            result = self.model.decoder.step(torch.tensor([[word]]), state, memory)
            log_probs = result.logits[0, 0].log_softmax(0)
            log_probs[[PAD, START, UNKNOWN, *([] if words else [END])]] = -torch.inf
            state, word = result.state, int(log_probs.argmax())
            total += float(log_probs[word])
            if word == END:
                break
            words.append(word)
        return Hypothesis(tuple(words), total, total / (len(words) + 1), None)
