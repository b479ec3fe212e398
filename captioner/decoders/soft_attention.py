"""Show, Attend and Tell with soft attention (Xu et al. 2015).

The state starts from the mean feature. Before each word, the last hidden state is the query of the
attention; the weighted mean of the features, scaled by the gate beta, enters the LSTM beside the
word. The word is predicted from the hidden state.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.decoders.additive_attention import score_keys
from captioner.decoders.attention_lstm import AttentionWeights, Unrolling, attention_lstm
from captioner.decoders.attribute_items import AttributeItems, AttributeOptions
from captioner.decoders.batch import CaptionBatch
from captioner.decoders.interface import (
    Attributes,
    Decoder,
    DecoderOutput,
    LSTMState,
    Step,
    dropout,
    keep_values,
)
from captioner.features import Features
from captioner.hdetach.gates import lstm_state
from captioner.hdetach.products import linear
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, option


@dataclass(frozen=True, kw_only=True)
class SoftAttentionOptions(AttributeOptions):
    attention_size: int = option(512, "units of the attention's hidden layer", within=AT_LEAST_ONE)
    feature_embedding_size: int = option(
        0,
        "length that the features are embedded to before all else; 0 uses them as they are",
        within=NOT_NEGATIVE,
    )
    detach_attention: bool = option(
        False, "detach the query of the attention too, at a step whose hidden state is detached"
    )


_LEAST_SHARE = 1e-12  # of the attention that the image has, lest a word's shares be no numbers


class AttentionMemory(NamedTuple):
    keys: Tensor  # [B, P + N, A], what the attention's query is compared with
    value_gates: Tensor  # [B, 4H, P + N], what each adds to the gates where all look at it
    h: Tensor  # [B, H], the state before the start token
    c: Tensor  # [B, H]
    attribute_words: Tensor  # [B, N]
    attribute_probabilities: Tensor  # [B, N]


class SoftAttention(Decoder):
    """Decoder that looks at the grid of features before every word.

    Source:
        Xu et al. 2015: state from the mean feature (section 3.1.2), gate beta (section 4.2.1).
        Unlike there, the word is predicted from the hidden state alone, and with
        `feature_embedding_size` the features pass a linear layer and a ReLU first, once per image.
        With `attributes` N, the N most probable attribute words are further items to look at,
        after the P positions. The attention of a training pass is that over the positions alone.
    """

    name = "soft_attention"
    has_attention = True
    Options = SoftAttentionOptions

    def __init__(
        self, options: SoftAttentionOptions, vocabulary_size: int, feature_size: int
    ) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        hidden = options.hidden_size
        self.embed_features = None
        looked_at = feature_size
        if options.feature_embedding_size:
            self.embed_features = nn.Linear(looked_at, options.feature_embedding_size)
            looked_at = options.feature_embedding_size
        self.attribute_items = None
        if options.attributes:
            self.attribute_items = AttributeItems(options, looked_at)
        self.initial_state = nn.Linear(looked_at, 2 * hidden)
        self.embedding = nn.Embedding(vocabulary_size, options.embedding_size)
        self.word_gates = nn.Linear(options.embedding_size, 4 * hidden)
        self.context_gates = nn.Linear(looked_at, 4 * hidden, bias=False)
        self.recurrent_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.attention_keys = nn.Linear(looked_at, options.attention_size, bias=False)
        self.attention_query = nn.Linear(hidden, options.attention_size)
        self.attention_score = nn.Linear(options.attention_size, 1, bias=False)
        self.context_gate = nn.Linear(hidden, 1)
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
        kept = keep_values(keep, batch.steps)
        unrolling = Unrolling(batch, kept, self.options.detach_attention, product_dtype)
        return self.unroll(features, unrolling, generator)[0]

    def unroll(
        self, features: Features, unrolling: Unrolling, generator: torch.Generator | None
    ) -> tuple[DecoderOutput, Tensor, Tensor]:
        """Return the output of a training pass, and what `attention_lstm` says of attention."""
        batch, rate, dtype = unrolling.batch, self.options.dropout, unrolling.dtype
        features = features.select(batch.image_order)
        values = self._values(features.grid, dtype)
        values = dropout(values, rate if self.embed_features else 0.0, self.training, generator)
        hidden, cell = self._initial(values)
        values, _ = self._with_attributes(values, features)
        keys = linear(values, self.attention_keys.weight, None, dtype)
        words = self.embedding(batch.words)
        word_gates = linear(words, self.word_gates.weight, self.word_gates.bias, dtype)
        looked_at = values
        context_weight: Tensor | None = self.context_gates.weight
        if _projecting_values_is_cheaper(batch, values):
            looked_at = linear(values, self.context_gates.weight, None, dtype)
            context_weight = None
        outputs, attention, chosen = attention_lstm(
            nn.functional.embedding(batch.word_index, word_gates),
            hidden.index_select(0, batch.first_images),
            cell.index_select(0, batch.first_images),
            keys,
            looked_at,
            AttentionWeights(
                recurrent=self.recurrent_gates.weight,
                query=self.attention_query.weight,
                query_bias=self.attention_query.bias,
                score=self.attention_score.weight[0],
                gate=self.context_gate.weight,
                gate_bias=self.context_gate.bias,
                context=context_weight,
            ),
            unrolling,
        )
        read = dropout(outputs, rate, self.training, generator)
        logits = linear(read, self.output.weight, self.output.bias, dtype)
        output = DecoderOutput(logits, self._over_positions(attention), outputs)
        return output, attention, chosen

    def prepare(self, features: Features) -> AttentionMemory:
        values = self._values(features.grid, None)
        items, attributes = self._with_attributes(values, features)
        keys, value_gates = self.attention_keys(items), self.context_gates(items)
        # Exported, every step reads this matrix: 1.5 times as quick where its rows are the gates.
        return AttentionMemory(keys, value_gates.mT, *self._initial(values), *attributes)

    def attributes(self, memory: AttentionMemory) -> Attributes | None:
        if self.attribute_items is None:
            return None
        return Attributes(memory.attribute_words, memory.attribute_probabilities)

    def start(self, memory: AttentionMemory) -> LSTMState:
        return LSTMState(memory.h.unsqueeze(1), memory.c.unsqueeze(1))

    def step(self, words: Tensor, state: LSTMState, memory: AttentionMemory) -> Step:
        hidden, cell = state
        query = self.attention_query(hidden).unsqueeze(2)
        score = self.attention_score.weight[0]
        attention = score_keys(memory.keys.unsqueeze(1), query, score).softmax(-1)
        # The gates of a mean are the mean of the gates, and beta is one number for all of them,
        # and so for all shares of the attention, which are fewer.
        context = (self.context_gate(hidden).sigmoid() * attention) @ memory.value_gates.mT
        gates = self.inputs_of(words) + context + self.recurrent_gates(hidden)
        hidden, cell = lstm_state(gates, cell)
        return Step(self.output(hidden), LSTMState(hidden, cell), attention)

    def word_inputs(self, words: Tensor) -> Tensor:
        return self.word_gates(self.embedding(words))

    def fold_words(self) -> None:
        super().fold_words()
        if self.attribute_items is not None:
            self.attribute_items.fold(self.embedding)

    def _values(self, grid: Tensor, dtype: torch.dtype | None) -> Tensor:
        if self.embed_features is None:
            return grid
        layer = self.embed_features
        return torch.relu(linear(grid, layer.weight, layer.bias, dtype))

    def _initial(self, values: Tensor) -> tuple[Tensor, Tensor]:
        # Without a photograph there is no position, and its mean counts as zero.
        mean = values.mean(1) if values.shape[1] else values.sum(1)
        hidden, cell = torch.tanh(self.initial_state(mean)).chunk(2, dim=1)
        return hidden, cell

    def _with_attributes(self, values: Tensor, features: Features) -> tuple[Tensor, Attributes]:
        """Return values [B, P, size] with the attributes behind, [B, P + N, size], and these."""
        if self.attribute_items is None:
            none = values.new_zeros(len(values), 0)
            return values, Attributes(none.long(), none)
        items, attributes = self.attribute_items(features, self.embedding)
        return torch.cat([values, items.to(values.dtype)], dim=1), attributes

    def _over_positions(self, attention: Tensor) -> Tensor:
        """Return the share of the attention on the image that each of its positions has."""
        if self.attribute_items is None:
            return attention
        over = attention[..., : -self.attribute_items.count]
        return over / over.sum(-1, keepdim=True).clamp_min(_LEAST_SHARE)


def _projecting_values_is_cheaper(batch: CaptionBatch, values: Tensor) -> bool:
    """Say whether to send the grid through the gates' weight instead of every context.

    The gates of a mean are the mean of the gates, so that the choice changes no result. Products
    with the weight: one a position, twice (or thrice, if the features are trained), against
    three a token.
    """
    positions = values.shape[0] * values.shape[1]
    return positions * (3 if values.requires_grad else 2) < 3 * batch.num_tokens
