"""Small checkpoints for tests of the export: a toy's encoder, and any decoder."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner.checkpoint import save_checkpoint
from captioner.decoders import DECODERS, Decoder, Step, build_decoder
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import ENCODERS, create_encoder
from captioner.files import file_hash
from captioner.hashed_folder import HASHES
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

EXTENSIONS = Path(__file__).parent.parent / "extensions"
WORDS = tuple(f"word{number}" for number in range(60))
GRID, SIDE = 3, 32


class Memory(NamedTuple):
    values: Tensor  # [B, P, H]


class State(NamedTuple):
    words: Tensor  # [B, K, t, H], of all words so far
    count: Tensor  # int64 [B, K, 1]


class Growing(Decoder):
    """Its state grows by a row with every word, as the keys and values of a transformer do."""

    name = "growing"
    has_attention = True

    def __init__(self, options, vocabulary_size, feature_size):
        super().__init__(options, vocabulary_size, feature_size)
        self.values = torch.nn.Linear(feature_size, options.hidden_size)
        self.embedding = torch.nn.Embedding(vocabulary_size, options.hidden_size)
        self.output = torch.nn.Linear(options.hidden_size, vocabulary_size)

    def prepare(self, features):
        return Memory(self.values(features.grid))

    def start(self, memory):
        images, _, size = memory.values.shape
        empty = memory.values.new_zeros(images, 1, 0, size)
        return State(empty, torch.zeros(images, 1, 1, dtype=torch.int64))

    def step(self, words, state, memory):
        new = self.embedding(words).unsqueeze(2)
        words_so_far = torch.cat((state.words, new), 2)
        scores = (new * words_so_far).sum(-1).softmax(-1)  # [B, K, t]
        query = (scores.unsqueeze(3) * words_so_far).sum(2)  # [B, K, H]
        attention = (query @ memory.values.transpose(1, 2)).softmax(-1)
        hidden = query + attention @ memory.values + 0.01 * state.count
        return Step(self.output(hidden), State(words_so_far, state.count + 1), attention)


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXTENSIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(ENCODERS, "toy", extension("toy_encoder").ToyEncoder)
    monkeypatch.setitem(DECODERS, "toy", extension("toy_decoder").ToyDecoder)
    monkeypatch.setitem(DECODERS, "growing", Growing)


def write_checkpoint(
    folder: Path, decoder: str, *, image_mode: str = "squash", summary=None, **options
) -> Path:
    """Write an untrained checkpoint whose captions differ from picture to picture."""
    encoder = create_encoder(
        EncoderConfig(name="toy", weights="none", image_size=SIDE, grid=GRID),
        torch.Generator().manual_seed(3),
    )
    if image_mode != "squash":
        object.__setattr__(encoder.preprocessing, "image_mode", image_mode)
    sizes = {"hidden_size": 24, "embedding_size": 16, **options}
    built = build_decoder(
        decoder,
        DECODERS[decoder].Options(**sizes),
        vocabulary_size=len(SPECIAL_TOKENS) + len(WORDS),
        feature_size=encoder.feature_size,
        generator=torch.Generator().manual_seed(1),
    )
    if built.attribute_detector is not None:
        generator = torch.Generator().manual_seed(2)
        # Small, so that no two probabilities are 1: which of equals comes first is open.
        weight = 0.25 * torch.randn(9, encoder.feature_size, generator=generator)
        built.attribute_detector.take(weight, torch.full((9,), -4.0), list(range(5, 14)))
    with torch.no_grad():
        built.output.weight.mul_(12)
        built.embedding.weight.mul_(8)
    save_checkpoint(
        folder,
        encoder=encoder,
        decoder=built,
        vocabulary=Vocabulary((*SPECIAL_TOKENS, *WORDS)),
        summary={"training": {"steps": 7}} if summary is None else summary,
    )
    return folder


def renew_hashes(folder: Path) -> None:
    """Make the list of hashes right again, after files were changed on purpose."""
    names = [path.name for path in folder.iterdir() if path.name != HASHES]
    hashes = {name: file_hash(folder / name) for name in names}
    (folder / HASHES).write_text(json.dumps(hashes))


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [
        Image.fromarray(
            np.kron(
                generator.integers(0, 256, (5, 4, 3), dtype=np.uint8),
                np.ones((9, 9, 1), dtype=np.uint8),
            )
        )
        for _ in range(count)
    ]
