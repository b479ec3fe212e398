"""Semantic attention (You et al. 2016): every word looks at attribute words, on input and output.

The image enters once, before the start token, as in Show and Tell. With E the embedding, y the word
that goes in and y_i the N most probable attribute words, a step reads

    alpha_i = softmax_i((E y)' U (E y_i))       x = E y + w_x * sum_i alpha_i E y_i
    beta_i  = softmax_i(h' V s(E y_i))          p = softmax(W (h + w_y * sum_i beta_i s(E y_i)))

where h is the LSTM's hidden state after reading x, s its activation tanh, and * is elementwise.
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
    Attributes,
    Decoder,
    DecoderOptions,
    DecoderOutput,
    LSTMState,
    Step,
    dropout,
    keep_values,
)
from captioner.decoders.lstm_attributes import mean_feature
from captioner.features import Features
from captioner.hdetach.gates import first_lstm_state, lstm_state
from captioner.hdetach.packed_lstm import packed_lstm
from captioner.hdetach.products import linear
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, option

_OVER_TIME, _WITHIN_A_STEP = 2.0, 0.5  # the penalty's powers p > 1 and 0 < q < 1


@dataclass(frozen=True, kw_only=True)
class AttFcnOptions(DecoderOptions):
    attributes: int = option(
        10, "most probable attribute words that every word looks at", within=AT_LEAST_ONE
    )
    attribute_detector: str = detector_option("mil")
    attribute_penalty: float = option(
        0.0,
        "weight of You et al.'s penalty on attention that stays with one attribute or is spread "
        "over all",
        within=NOT_NEGATIVE,
    )


class Looked(NamedTuple):
    """What every step needs of the images and their attributes."""

    h: Tensor  # [B, H], the state before the start token
    c: Tensor  # [B, H]
    input_keys: Tensor  # [B, N, E], what a word's embedding is compared with
    input_values: Tensor  # [B, N, 4H], what each attribute adds to the gates
    output_keys: Tensor  # [B, N, H], what the hidden state is compared with
    output_values: Tensor  # [B, N, H], what each adds to it before the word is predicted
    words: Tensor  # [B, N]
    probabilities: Tensor  # [B, N]


class AttFcn(Decoder):
    """Decoder with attention to attributes instead of positions; that on the output is shown.

    Source:
        You et al. 2016, their input and output attention models; the penalty is that of their
        model learning, with p = 2 and q = 1/2, which they leave open. Unlike there the output's
        weights are its own, as in the other decoders here, not those of the embedding, and where
        hidden and embedding size differ the attributes pass a linear layer before s.
    """

    name = "att_fcn"
    Options = AttFcnOptions

    def __init__(self, options: AttFcnOptions, vocabulary_size: int, feature_size: int) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        hidden, size = options.hidden_size, options.embedding_size
        self.detector: AttributeDetector = DETECTORS[options.attribute_detector]()
        self.embed_image = nn.Linear(feature_size, size)
        self.embedding = nn.Embedding(vocabulary_size, size)
        self.input_attention = nn.Linear(size, size, bias=False)  # U
        self.input_scale = nn.Parameter(torch.ones(size))  # w_x
        self.input_gates = nn.Linear(size, 4 * hidden)
        self.recurrent_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.to_hidden = nn.Identity() if size == hidden else nn.Linear(size, hidden, bias=False)
        self.output_attention = nn.Linear(hidden, hidden, bias=False)  # V
        self.output_scale = nn.Parameter(torch.ones(hidden))  # w_y
        self.output = nn.Linear(hidden, vocabulary_size)  # W
        self._attribute_table: Tensor | None = None  # [A, E], once the weights are fixed

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
        seen = self._look(features.select(batch.image_order))
        self._generator = None
        words = self.embedding(batch.words)
        word_gates = linear(words, self.input_gates.weight, self.input_gates.bias, dtype)
        queries = nn.functional.embedding(batch.word_index, words)
        alpha, context = _attend(queries, seen.input_keys, seen.input_values, batch)
        outputs = packed_lstm(
            nn.functional.embedding(batch.word_index, word_gates) + context,
            seen.h.index_select(0, batch.first_images),
            seen.c.index_select(0, batch.first_images),
            self.recurrent_gates.weight,
            keep=keep_values(keep, batch.steps),
            timeline=batch.timeline,
            dtype=dtype,
        )
        beta, context = _attend(outputs, seen.output_keys, seen.output_values, batch)
        read = dropout(outputs + context, rate, self.training, generator)
        logits = linear(read, self.output.weight, self.output.bias, dtype)
        return DecoderOutput(logits, None, outputs, self._terms(alpha, beta, batch))

    def prepare(self, features: Features) -> Looked:
        return self._look(features)

    def attributes(self, memory: Looked) -> Attributes:
        return Attributes(memory.words, memory.probabilities)

    def start(self, memory: Looked) -> LSTMState:
        return LSTMState(memory.h.unsqueeze(1), memory.c.unsqueeze(1))

    def step(self, words: Tensor, state: LSTMState, memory: Looked) -> Step:
        sizes = [4 * self.options.hidden_size, self.options.embedding_size]
        gates, query = self.inputs_of(words).split(sizes, dim=-1)
        alpha = (query @ memory.input_keys.mT).softmax(-1)
        gates = gates + alpha @ memory.input_values + self.recurrent_gates(state.h)
        hidden, cell = lstm_state(gates, state.c)
        beta = (hidden @ memory.output_keys.mT).softmax(-1)
        logits = self.output(hidden + beta @ memory.output_values)
        return Step(logits, LSTMState(hidden, cell), beta)

    def word_inputs(self, words: Tensor) -> Tensor:
        embedded = self.embedding(words)
        return torch.cat([self.input_gates(embedded), embedded], dim=-1)

    def fold_words(self) -> None:
        super().fold_words()
        with torch.no_grad():
            self._attribute_table = self.embedding(self.detector.word_ids)

    def _look(self, features: Features) -> Looked:
        image = self.drop(self.embed_image(mean_feature(features.grid)))
        hidden, cell = first_lstm_state(self.input_gates(image))
        known = self.detector.of(features)
        places, probabilities = self.detector.best(known, self.options.attributes)
        words = self.detector.word_ids[places]
        if self._attribute_table is None:
            attributes = self.embedding(words)
        else:
            attributes = nn.functional.embedding(places, self._attribute_table)
        activated = torch.tanh(self.to_hidden(attributes))
        return Looked(
            hidden,
            cell,
            self.input_attention(attributes),
            nn.functional.linear(self.input_scale * attributes, self.input_gates.weight),
            self.output_attention(activated),
            self.output_scale * activated,
            words,
            probabilities,
        )

    def _terms(self, alpha: Tensor, beta: Tensor, batch: CaptionBatch) -> Mapping[str, Tensor]:
        weight = self.options.attribute_penalty
        if not self.training or not weight:
            return {}
        penalty = attention_penalty(alpha, batch) + attention_penalty(beta, batch)
        return {"attribute_penalty": weight * penalty}


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, batch: CaptionBatch
) -> tuple[Tensor, Tensor]:
    """Return the weights [tokens, N] of what each token looks at, and the weighted sums.

    Shapes:
        queries [tokens, size], keys [B, N, size], values [B, N, out] -> [tokens, out]
    """
    weights = (batch.by_image(queries) @ keys.mT).softmax(-1)
    return tuple(  # type: ignore[return-value]
        part.flatten(0, 1).index_select(0, batch.image_cells)
        for part in (weights, weights @ values)
    )


def attention_penalty(attention: Tensor, batch: CaptionBatch) -> Tensor:
    """Return You et al.'s penalty g for attention [tokens, N], the mean over captions.

    Of each caption: the p-norm of the attributes' sums over time, which grows where one has it all,
    and the sum over time of the q-norm of each step, which grows where it is spread.
    """
    rows = batch.captions_of_tokens()
    over_time = attention.new_zeros(batch.num_captions, attention.shape[1])
    over_time = over_time.index_add(0, rows, attention)
    excess = over_time.pow(_OVER_TIME).sum(1).pow(1.0 / _OVER_TIME)
    # The least number keeps the slope finite where the softmax underflows.
    spread = attention.clamp_min(1e-12).pow(_WITHIN_A_STEP).sum(1).pow(1.0 / _WITHIN_A_STEP)
    return (excess.sum() + spread.sum()) / batch.num_captions
