"""Show and Tell (Vinyals et al. 2015): the image is the first word the LSTM reads.

The mean feature, embedded like a word, enters at step 0 with a zero state; the start token and
the caption follow. All captions of an image share that first step.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.decoders.batch import CaptionBatch
from captioner.decoders.interface import (
    Decoder,
    DecoderOptions,
    DecoderOutput,
    LSTMState,
    Step,
    dropout,
    keep_values,
)
from captioner.features import Features
from captioner.hdetach.gates import first_lstm_state, lstm_state
from captioner.hdetach.packed_lstm import packed_lstm
from captioner.hdetach.products import linear


class ImageState(NamedTuple):
    """The state that the image leaves behind."""

    h: Tensor  # [B, H]
    c: Tensor  # [B, H]


class ShowTell(Decoder):
    """Decoder that sees the mean feature once, before the start token.

    keep[0] concerns the state that the image leaves behind, as it enters the start token's step.
    """

    name = "show_tell"

    def __init__(self, options: DecoderOptions, vocabulary_size: int, feature_size: int) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        hidden = options.hidden_size
        self.embed_image = nn.Linear(feature_size, options.embedding_size)
        self.embedding = nn.Embedding(vocabulary_size, options.embedding_size)
        self.input_gates = nn.Linear(options.embedding_size, 4 * hidden)
        self.recurrent_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.output = nn.Linear(hidden, vocabulary_size)

    def forward(
        self,
        features: Features,
        batch: CaptionBatch,
        *,
        keep: Tensor | None = None,
        generator: torch.Generator | None = None,
        product_dtype: torch.dtype | None = None,
    ) -> DecoderOutput:
        rate, dtype = self.options.dropout, product_dtype
        mean = features.grid.mean(1).index_select(0, batch.image_order)
        image = dropout(self.embed_image(mean), rate, self.training, generator)
        hidden, cell = first_lstm_state(self.input_gates(image))
        words = self.embedding(batch.words)
        word_gates = linear(words, self.input_gates.weight, self.input_gates.bias, dtype)
        outputs = packed_lstm(
            nn.functional.embedding(batch.word_index, word_gates),
            hidden.index_select(0, batch.first_images),
            cell.index_select(0, batch.first_images),
            self.recurrent_gates.weight,
            keep=keep_values(keep, batch.steps),
            timeline=batch.timeline,
            dtype=dtype,
        )
        read = dropout(outputs, rate, self.training, generator)
        logits = linear(read, self.output.weight, self.output.bias, dtype)
        return DecoderOutput(logits, None, outputs)

    def prepare(self, features: Features) -> ImageState:
        image = self.embed_image(features.grid.mean(1))
        return ImageState(*first_lstm_state(self.input_gates(image)))

    def start(self, memory: ImageState) -> LSTMState:
        return LSTMState(memory.h.unsqueeze(1), memory.c.unsqueeze(1))

    def step(self, words: Tensor, state: LSTMState, memory: ImageState) -> Step:  # noqa: ARG002
        gates = self.inputs_of(words) + self.recurrent_gates(state.h)
        hidden, cell = lstm_state(gates, state.c)
        return Step(self.output(hidden), LSTMState(hidden, cell), None)

    def word_inputs(self, words: Tensor) -> Tensor:
        return self.input_gates(self.embedding(words))
