"""NeuralTalk (DeepVS; Karpathy & Fei-Fei 2015): a recurrent network that is told of the image once.

The image is a bias of the first step, that of the start token, of a simple recurrent network:
h_t = relu(W_x x_t + W_h h_{t-1} + b + [t = 1] W_i v), with h_0 = 0 and the word predicted from h_t
(section 3.2, equations 13 to 15). As in NeuralTalk2, an LSTM instead reads the embedded image at a
step of its own, before the start token; that is Show and Tell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captioner.decoders.batch import CaptionBatch
from captioner.decoders.interface import DecoderOptions, DecoderOutput, Step, dropout, keep_values
from captioner.decoders.show_tell import ShowTell
from captioner.errors import OptionError
from captioner.features import Features
from captioner.hdetach.packed_lstm import select_active
from captioner.hdetach.products import linear
from captioner.options import option
from captioner.vocabulary import START

_NOTHING_TO_DETACH = (
    "--cell rnn has no cell state for gradients to go along where the hidden state is detached; "
    "leave --p at 0, or give --cell lstm"
)


@dataclass(frozen=True, kw_only=True)
class NeuralTalkOptions(DecoderOptions):
    cell: str = option(
        "rnn",
        "the recurrence: rnn as printed, for which --p is 0, or lstm as in NeuralTalk2",
        choices=("rnn", "lstm"),
    )

    @property
    def has_cell_state(self) -> bool:
        return self.cell != "rnn"

    def contradictions(self) -> Iterable[str]:
        # Among the options of a training there is --p.
        if not self.has_cell_state and getattr(self, "p", 0.0) > 0.0:
            yield _NOTHING_TO_DETACH


class ImageBias(NamedTuple):
    bias: Tensor  # [B, H], of the first step


class RecurrentState(NamedTuple):
    h: Tensor  # [B, K, H]


class NeuralTalk(ShowTell):
    """Decoder that sees the mean feature once, at its first step.

    With `cell` rnn, h-detach would cut the one path that gradients have, and is refused.
    """

    name = "neuraltalk"
    Options = NeuralTalkOptions

    def __init__(self, options: NeuralTalkOptions, vocabulary_size: int, feature_size: int) -> None:
        super().__init__(options, vocabulary_size, feature_size)
        self.is_simple = not options.has_cell_state
        if self.is_simple:
            hidden = options.hidden_size
            self.embed_image = nn.Linear(feature_size, hidden, bias=False)
            self.input_gates = nn.Linear(options.embedding_size, hidden)
            self.recurrent_gates = nn.Linear(hidden, hidden, bias=False)

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
        if not self.is_simple:
            return super().forward(
                features, batch, keep=keep, generator=generator, product_dtype=dtype
            )
        if not all(keep_values(keep, batch.steps)):
            raise OptionError(_NOTHING_TO_DETACH)
        mean = features.grid.mean(1).index_select(0, batch.image_order)
        bias = dropout(self.embed_image(mean), rate, self.training, generator)
        words = self.embedding(batch.words)
        of_words = linear(words, self.input_gates.weight, self.input_gates.bias, dtype)
        inputs = nn.functional.embedding(batch.word_index, of_words)
        hidden, outputs = bias.index_select(0, batch.first_images), []
        for number, step in enumerate(batch.timeline):
            if number:
                before = select_active(hidden, step.survivors)
                hidden = linear(before, self.recurrent_gates.weight, None, dtype)
            hidden = torch.relu(inputs[step.tokens] + hidden)
            outputs.append(hidden)
        states = torch.cat(outputs)
        read = dropout(states, rate, self.training, generator)
        logits = linear(read, self.output.weight, self.output.bias, dtype)
        return DecoderOutput(logits, None, states)

    def prepare(self, features: Features) -> Any:
        if not self.is_simple:
            return super().prepare(features)
        return ImageBias(self.embed_image(features.grid.mean(1)))

    def start(self, memory: Any) -> Any:
        if not self.is_simple:
            return super().start(memory)
        return RecurrentState(torch.zeros_like(memory.bias).unsqueeze(1))

    def step(self, words: Tensor, state: Any, memory: Any) -> Step:
        if not self.is_simple:
            return super().step(words, state, memory)
        is_first = (words == START).unsqueeze(2)  # no caption holds the start token
        bias = memory.bias.unsqueeze(1) * is_first
        hidden = torch.relu(self.inputs_of(words) + self.recurrent_gates(state.h) + bias)
        return Step(self.output(hidden), RecurrentState(hidden), None)

    def detached(self, state: Any) -> Any:
        if self.is_simple:
            raise OptionError(_NOTHING_TO_DETACH)
        return super().detached(state)
