"""A GRU that starts from the mean feature, in as few lines as a decoder takes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.decoders import Decoder, DecoderOptions, Step
from captioner.features import Features
from captioner.options import AT_LEAST_ONE, option


@dataclass(frozen=True, kw_only=True)
class ToyOptions(DecoderOptions):
    toy_depth: int = option(1, "how often the mean feature is squashed", within=AT_LEAST_ONE)


class Memory(NamedTuple):
    mean: Tensor  # [B, D]


class State(NamedTuple):
    h: Tensor  # [B, K, H]


class ToyDecoder(Decoder):
    name = "toy"
    Options = ToyOptions

    def __init__(self, options: ToyOptions, vocabulary_size: int, feature_size: int) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        self.first = nn.Linear(feature_size, options.hidden_size)
        self.embedding = nn.Embedding(vocabulary_size, options.embedding_size)
        self.cell = nn.GRUCell(options.embedding_size, options.hidden_size)
        self.output = nn.Linear(options.hidden_size, vocabulary_size)

    def prepare(self, features: Features) -> Memory:
        return Memory(features.grid.mean(1))

    def start(self, memory: Memory) -> State:
        h = self.first(memory.mean)
        for _ in range(self.options.toy_depth):
            h = torch.tanh(h)
        return State(h.unsqueeze(1))

    def step(self, words: Tensor, state: State, memory: Memory) -> Step:  # noqa: ARG002
        embedded = self.embedding(words)
        h = self.cell(embedded.flatten(0, 1), state.h.flatten(0, 1)).view(state.h.shape)
        return Step(self.output(self.drop(h)), State(h), None)
