"""LSTM-A (Yao et al. 2017): an LSTM that reads what the image is and which attributes it has.

The image I is its mean feature, the attributes A are the probabilities of words. Both are embedded
like a word and enter before the start token, or are added to every word:

    variant 1   x(-1) = T_a A                       x(t) = T_s w(t)
    variant 2   x(-2) = T_v I,   x(-1) = T_a A      x(t) = T_s w(t)
    variant 3   x(-2) = T_a A,   x(-1) = T_v I      x(t) = T_s w(t)
    variant 4   x(-1) = T_a A                       x(t) = T_s w(t) + T_v I
    variant 5   x(-1) = T_v I                       x(t) = T_s w(t) + T_a A
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.attributes import DETECTORS, AttributeDetector
from captioner.decoders.attribute_items import detector_option
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
from captioner.options import AT_LEAST_ONE, between, option


@dataclass(frozen=True, kw_only=True)
class LSTMAttributesOptions(DecoderOptions):
    variant: int = option(
        5,
        "where the attributes enter: 1 before the start token, without the image; 2 after it; "
        "3 before it; 4 before the start token, and the image at every word; 5 at every word, "
        "and the image before the start token",
        within=between(1, 5),
    )
    attributes: int | None = option(
        None,
        "most probable attribute words whose probabilities enter; default: all of them",
        within=AT_LEAST_ONE,
    )
    attribute_detector: str = detector_option("mil")


class Plan(NamedTuple):
    """What a variant reads when."""

    first: tuple[str, ...]  # before the start token, in this order
    always: str | None  # beside every word


_FIRST = 0.01  # bound of the attributes' first embeddings, a tenth of the words'
_IMAGE, _ATTRIBUTES = "image", "attributes"
PLANS: Mapping[int, Plan] = {
    1: Plan((_ATTRIBUTES,), None),
    2: Plan((_IMAGE, _ATTRIBUTES), None),
    3: Plan((_ATTRIBUTES, _IMAGE), None),
    4: Plan((_ATTRIBUTES,), _IMAGE),
    5: Plan((_IMAGE,), _ATTRIBUTES),
}


class Encoded(NamedTuple):
    """What the image and its attributes leave behind."""

    h: Tensor  # [B, H], the state before the start token
    c: Tensor  # [B, H]
    always: Tensor  # [B, 4H] to be added to the gates at every word; [B, 0] for nothing


class LSTMAttributes(Decoder):
    """Decoder that reads the probabilities of attribute words.

    keep[0] concerns the state that enters the start token's step. Before it, the captions of an
    image share the steps that read the image and its attributes; those are never cut.

    Source:
        Yao et al. 2017, sections 3.2.1 to 3.2.5; the h-detach paper's MSM is variant 5. T_a has a
        column for every word of the vocabulary, of which those of attributes are used.
    """

    name = "lstm_attributes"
    Options = LSTMAttributesOptions

    def __init__(
        self, options: LSTMAttributesOptions, vocabulary_size: int, feature_size: int
    ) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        hidden, size = options.hidden_size, options.embedding_size
        self.plan = PLANS[options.variant]
        self.detector: AttributeDetector = DETECTORS[options.attribute_detector]()
        self.embed_image = None
        if _IMAGE in (*self.plan.first, self.plan.always):
            self.embed_image = nn.Linear(feature_size, size)
        # Small at first: many attributes are summed, and added to words they would drown these.
        first = torch.empty(vocabulary_size, size).uniform_(-_FIRST, _FIRST)
        self.attribute_embedding = nn.Parameter(first)
        self.embedding = nn.Embedding(vocabulary_size, size)
        self.input_gates = nn.Linear(size, 4 * hidden)
        self.recurrent_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.output = nn.Linear(hidden, vocabulary_size)
        self._attribute_table: Tensor | None = None  # [A, size], once the weights are fixed

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
        self._generator = generator
        hidden, cell, always = self._encode(features.select(batch.image_order))
        self._generator = None
        words = self.embedding(batch.words)
        word_gates = linear(words, self.input_gates.weight, self.input_gates.bias, dtype)
        gates = nn.functional.embedding(batch.word_index, word_gates)
        if self.plan.always:
            gates = gates + nn.functional.embedding(batch.images_of_tokens(), always)
        outputs = packed_lstm(
            gates,
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

    def prepare(self, features: Features) -> Encoded:
        return self._encode(features)

    def start(self, memory: Encoded) -> LSTMState:
        return LSTMState(memory.h.unsqueeze(1), memory.c.unsqueeze(1))

    def step(self, words: Tensor, state: LSTMState, memory: Encoded) -> Step:
        gates = self.inputs_of(words) + self.recurrent_gates(state.h)
        if self.plan.always:
            gates = gates + memory.always.unsqueeze(1)
        hidden, cell = lstm_state(gates, state.c)
        return Step(self.output(hidden), LSTMState(hidden, cell), None)

    def word_inputs(self, words: Tensor) -> Tensor:
        return self.input_gates(self.embedding(words))

    def fold_words(self) -> None:
        super().fold_words()
        with torch.no_grad():
            self._attribute_table = self.attribute_embedding[self.detector.word_ids]

    def _encode(self, features: Features) -> Encoded:
        inputs = {_ATTRIBUTES: self.drop(self._embedded_attributes(features))}
        if self.embed_image is not None:
            inputs[_IMAGE] = self.drop(self.embed_image(mean_feature(features.grid)))
        first, *then = (self.input_gates(inputs[name]) for name in self.plan.first)
        hidden, cell = first_lstm_state(first)
        for gates in then:
            hidden, cell = lstm_state(gates + self.recurrent_gates(hidden), cell)
        always = hidden[:, :0]
        if self.plan.always:
            weight = self.input_gates.weight
            always = nn.functional.linear(inputs[self.plan.always], weight)
        return Encoded(hidden, cell, always)

    def _embedded_attributes(self, features: Features) -> Tensor:
        """Return T_a A: [B, size]."""
        table = self._attribute_table
        if table is None:
            table = self.attribute_embedding[self.detector.word_ids]
        return self.detector.most_probable(features, self.options.attributes) @ table


def mean_feature(grid: Tensor) -> Tensor:
    """Return the mean over positions [B, D]; without a photograph there is none, and it is zero."""
    return grid.mean(1) if grid.shape[1] else grid.sum(1)
