"""Adaptive attention with a visual sentinel (Lu et al. 2017, "Knowing when to look").

The LSTM reads the word and the whole image; then the decoder decides where to look for the next
word, and whether to look at all. What the LSTM itself remembers, the sentinel, is one more item to
attend to, and its weight beta is the share of a word that was not looked up in the image. Nothing
that was looked at enters the recurrence, so a training pass attends for all words at once.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.decoders.additive_attention import attention_scores, score_keys
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
from captioner.hdetach.gates import lstm_state
from captioner.hdetach.packed_lstm import packed_lstm_with_memory
from captioner.hdetach.products import linear
from captioner.options import AT_LEAST_ONE, option


@dataclass(frozen=True, kw_only=True)
class AdaptiveAttentionOptions(DecoderOptions):
    attention_size: int = option(512, "units of the attention's hidden layer", within=AT_LEAST_ONE)


class AdaptiveMemory(NamedTuple):
    keys: Tensor  # [B, P, A], what the attention's query is compared with
    values: Tensor  # [B, P, H], the embedded positions
    gates: Tensor  # [B, 5H], what the whole image adds to the gates of every step


class AdaptiveAttention(Decoder):
    """Decoder that looks at the grid of features, or at what it remembers, for every word.

    With x_t the word and v the mean feature embedded, and h_t, c_t = LSTM([x_t; v], h_{t-1}):

        s_t = sigmoid(W_x [x_t; v] + W_h h_{t-1}) tanh(c_t)          the sentinel
        z_ti = w . tanh(W_v v_i + W_g h_t), z_ts = w . tanh(W_s s_t + W_g h_t)
        alpha_t, beta_t = softmax([z_t; z_ts])
        p_t = softmax(W_p (sum_i alpha_ti v_i + beta_t s_t + h_t))

    The sentinel's gate stands with the LSTM's four as a fifth. H-detach cuts h_{t-1} as it enters
    all five; the query is h_t, of the step itself, and is not cut.

    Source:
        Lu et al. 2017, equations 5 to 13. Their sum is (1 - beta) c_t + beta s_t with a c_t that is
        weighted by the softmax of z_t alone: the same.
    """

    name = "adaptive_attention"
    has_attention = True
    share_names = ("sentinel",)
    Options = AdaptiveAttentionOptions

    def __init__(
        self, options: AdaptiveAttentionOptions, vocabulary_size: int, feature_size: int
    ) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        hidden, size = options.hidden_size, options.embedding_size
        attended = options.attention_size
        self.embed_features = nn.Linear(feature_size, hidden)
        self.embed_image = nn.Linear(feature_size, size)
        self.embedding = nn.Embedding(vocabulary_size, size)
        self.word_gates = nn.Linear(size, 5 * hidden)
        self.image_gates = nn.Linear(size, 5 * hidden, bias=False)
        self.recurrent_gates = nn.Linear(hidden, 5 * hidden, bias=False)
        self.attention_keys = nn.Linear(hidden, attended, bias=False)
        self.sentinel_key = nn.Linear(hidden, attended, bias=False)
        self.attention_query = nn.Linear(hidden, attended)
        self.attention_score = nn.Linear(attended, 1, bias=False)
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
        rate, dtype, hidden = self.options.dropout, product_dtype, self.options.hidden_size
        kept = keep_values(keep, batch.steps)
        values, of_images = self._embedded(features.select(batch.image_order), dtype)
        values = dropout(values, rate, self.training, generator)
        keys = linear(values, self.attention_keys.weight, None, dtype)
        words = self.embedding(batch.words)
        of_words = linear(words, self.word_gates.weight, self.word_gates.bias, dtype)
        gates = nn.functional.embedding(batch.word_index, of_words)
        gates = gates + of_images.index_select(0, batch.images_of_tokens())
        zero = gates.new_zeros(batch.num_captions, hidden)
        recurrent = self.recurrent_gates.weight
        outputs, squashed = packed_lstm_with_memory(
            gates[:, : 4 * hidden],
            zero,
            zero,
            recurrent[: 4 * hidden],
            keep=kept,
            timeline=batch.timeline,
            dtype=dtype,
        )
        before = _states_before(outputs, batch, kept)
        gate = gates[:, 4 * hidden :] + linear(before, recurrent[4 * hidden :], None, dtype)
        sentinel = gate.sigmoid() * squashed

        query = linear(outputs, self.attention_query.weight, self.attention_query.bias, dtype)
        score = self.attention_score.weight[0]
        scores = attention_scores(keys, score, query, batch)
        key = linear(sentinel, self.sentinel_key.weight, None, dtype)
        of_sentinel = score_keys(key.unsqueeze(1), query.unsqueeze(1), score)
        attention = torch.cat([scores, of_sentinel], dim=1).softmax(1)
        over, beta = attention[:, :-1], attention[:, -1:]
        seen = torch.bmm(batch.by_image(over), values).flatten(0, 1)
        context = seen.index_select(0, batch.image_cells) + beta * sentinel
        known = context + outputs
        read = dropout(known, rate, self.training, generator)
        logits = linear(read, self.output.weight, self.output.bias, dtype)
        return DecoderOutput(logits, scores.softmax(1), known)

    def prepare(self, features: Features) -> AdaptiveMemory:
        values, gates = self._embedded(features, None)
        return AdaptiveMemory(self.attention_keys(values), values, gates)

    def start(self, memory: AdaptiveMemory) -> LSTMState:
        zero = torch.zeros_like(memory.gates[:, None, : self.options.hidden_size])
        return LSTMState(zero, torch.zeros_like(zero))

    def step(self, words: Tensor, state: LSTMState, memory: AdaptiveMemory) -> Step:
        hidden, cell = state
        gates = self.inputs_of(words) + memory.gates.unsqueeze(1) + self.recurrent_gates(hidden)
        of_lstm, of_sentinel = gates.split([4 * hidden.shape[2], hidden.shape[2]], dim=2)
        hidden, cell = lstm_state(of_lstm, cell)
        sentinel = of_sentinel.sigmoid() * cell.tanh()
        query, score = self.attention_query(hidden).unsqueeze(2), self.attention_score.weight[0]
        scores = score_keys(memory.keys.unsqueeze(1), query, score)
        own = score_keys(self.sentinel_key(sentinel).unsqueeze(2), query, score)
        attention = torch.cat([scores, own], dim=2).softmax(2)
        context = attention[..., :-1] @ memory.values + attention[..., -1:] * sentinel
        return Step(self.output(context + hidden), LSTMState(hidden, cell), attention)

    def word_inputs(self, words: Tensor) -> Tensor:
        return self.word_gates(self.embedding(words))

    def _embedded(self, features: Features, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Return the embedded positions [B, P, H], and what the whole image adds to the gates."""
        of_grid, of_image = self.embed_features, self.embed_image
        values = torch.relu(linear(features.grid, of_grid.weight, of_grid.bias, dtype))
        image = torch.relu(linear(features.grid.mean(1), of_image.weight, of_image.bias, dtype))
        return values, linear(image, self.image_gates.weight, None, dtype)


def _states_before(outputs: Tensor, batch: CaptionBatch, keep: list[float]) -> Tensor:
    """Return the hidden state before each token, zero at first, detached where `keep` is 0.

    Shapes:
        outputs [tokens, H], the states after each -> [tokens, H].
    """
    parts = [outputs.new_zeros(batch.num_captions, outputs.shape[1])]
    for (earlier, step), keep_hidden in zip(pairwise(batch.timeline), keep[1:], strict=True):
        rows = outputs[earlier.tokens]
        rows = rows if step.survivors is None else rows.index_select(0, step.survivors)
        parts.append(rows if keep_hidden else rows.detach())
    return torch.cat(parts)
