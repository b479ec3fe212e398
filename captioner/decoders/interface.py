"""The interface of decoders: a training pass over packed captions, and single steps for search.

Shape letters: B images, K captions or beams per image, T steps, P positions of the grid,
D features, H hidden, V words in the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from captioner.attributes import AttributeDetector
from captioner.decoders.batch import CaptionBatch
from captioner.decoders.initial_weights import with_initial_weights
from captioner.errors import OptionError
from captioner.features import Features
from captioner.options import AT_LEAST_ONE, SHARE, Options, option


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(Options):
    """The options of every decoder; one that has more derives from it."""

    hidden_size: int = option(512, "units of the LSTM", within=AT_LEAST_ONE)
    embedding_size: int = option(512, "length of a word's vector", within=AT_LEAST_ONE)
    dropout: float = option(0.5, "share of units dropped while training", within=SHARE)

    @property
    def has_cell_state(self) -> bool:
        """Whether gradients have a path left where h-detach cuts that of the hidden state."""
        return True


class LSTMState(NamedTuple):
    """The state of an LSTM for K rows per image."""

    h: Tensor  # [B, K, H]
    c: Tensor  # [B, K, H]


class Step(NamedTuple):
    """The result of one step of a decoder."""

    logits: Tensor  # [B, K, V]
    state: Any  # as the one that went in
    attention: Tensor | None
    """[B, K, P + N + S], over positions, attributes and what the decoder's `share_names` name.
    Each row sums to 1. A decoder that attends to attributes alone has no columns for positions."""


class Attributes(NamedTuple):
    """The attributes that a decoder attends to, mostly beside the positions of the grid."""

    words: Tensor  # [B, N]
    probabilities: Tensor  # [B, N], as the detector gives them


class DecoderOutput(NamedTuple):
    """The result of a training pass, packed by token as the batch is."""

    logits: Tensor  # [tokens, V]
    attention: Tensor | None  # [tokens, P]
    hidden: Tensor | None = None  # [tokens, H] that words are predicted from, before dropout
    terms: Mapping[str, Tensor] = MappingProxyType({})
    """Losses of the decoder's own, beside that of the words: scalars, each times its weight.

    There are none in evaluation mode.
    """
    figures: Mapping[str, Tensor] = MappingProxyType({})
    """Scalars that are logged and are no loss."""


class Decoder(nn.Module, ABC):
    """A language model of captions, conditioned on the features of an image.

    A decoder declares its `Options` and defines `prepare`, `start` and `step`. Its memory, what it
    looks at, and its state are NamedTuples of tensors of its own with the image as their first
    dimension; in a state the second is the caption. The hidden state is called `h`, if h-detach is
    to cut it. PyTorch then differentiates the training pass; a decoder with a quicker one defines
    `forward` as well.
    """

    name: ClassVar[str]
    has_attention: ClassVar[bool] = False  # to positions of the grid
    share_names: ClassVar[tuple[str, ...]] = ()
    """What steps attend to after everything in the image, such as a sentinel: a name for each."""
    samples_in_training: ClassVar[bool] = False
    """Whether `forward` takes `draws` as well: a generator for what it draws but dropout."""
    Options: ClassVar[type[DecoderOptions]] = DecoderOptions

    def __init__(self, options: Any, vocabulary_size: int, feature_size: int) -> None:
        super().__init__()
        self.options = options
        self.vocabulary_size = vocabulary_size
        self.feature_size = feature_size
        self._generator: torch.Generator | None = None  # of the dropout, in a training pass
        self.training_part: nn.Module | None = None
        self._word_table: Tensor | None  # `word_inputs` of every word, once the weights are fixed
        self.register_buffer("_word_table", None, persistent=False)

    @property
    def attribute_detector(self) -> AttributeDetector | None:
        """What finds the attributes that it reads; None where it reads none."""
        return next((m for m in self.modules() if isinstance(m, AttributeDetector)), None)

    @abstractmethod
    def prepare(self, features: Features) -> Any:
        """Return the memory: what every step needs of the images, never copied per caption."""

    @abstractmethod
    def start(self, memory: Any) -> Any:
        """Return the state before the start token, one row per image: tensors [B, 1, ...]."""

    def attributes(self, memory: Any) -> Attributes | None:  # noqa: ARG002
        """Return the attributes that steps attend to; None where there are none."""
        return None

    @abstractmethod
    def step(self, words: Tensor, state: Any, memory: Any) -> Step:
        """Return the logits of the next word: words [B, K] with a state of as many rows."""

    def word_inputs(self, words: Tensor) -> Tensor:
        """Return what words [...] by themselves add to a step: [..., any].

        A decoder that defines this, and has `step` ask `inputs_of` for it, lets what runs it with
        fixed weights read a row of a table where a step would multiply an embedding by weights.
        """
        raise NotImplementedError

    def inputs_of(self, words: Tensor) -> Tensor:
        """Return `word_inputs`, from the table of all words where there is one."""
        if self._word_table is None:
            return self.word_inputs(words)
        return nn.functional.embedding(words, self._word_table)

    def fold_words(self) -> None:
        """Make the table of all words where there can be one; the weights are fixed from now on."""
        if type(self).word_inputs is not Decoder.word_inputs:
            device = next(self.parameters()).device
            with torch.no_grad():
                self._word_table = self.word_inputs(
                    torch.arange(self.vocabulary_size, device=device)
                )

    def detached(self, state: Any) -> Any:
        """Return the state as it enters a step at which h-detach cuts the hidden state.

        A decoder that also reads the hidden state uncut keeps it in the state under another name.
        """
        if "h" not in state._fields:
            raise OptionError(f"{self.name} has no hidden state to detach; train it with --p 0")
        return state._replace(h=state.h.detach())

    def make_training_part(self) -> nn.Module | None:
        """Return a module of what only training needs, with any weights; None for nothing.

        A training pass reads it as `training_part`, where there is one, for its terms.
        """
        return None

    def begin_training(self, generator: torch.Generator) -> None:
        """Add the training part, with fresh weights drawn from `generator`.

        It is trained with the decoder and kept with what a run needs to go on; no checkpoint that
        captions holds it.
        """
        self.training_part = with_initial_weights(
            self.make_training_part, self.options.hidden_size, generator
        )

    def captioning_state(self) -> dict[str, Tensor]:
        """Return all weights and buffers by name but those of the training part."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith("training_part.")
        }

    def drop(self, values: Tensor) -> Tensor:
        """Apply the option `dropout` while training; for use in `prepare`, `start` and `step`."""
        return dropout(values, self.options.dropout, self.training, self._generator)

    def forward(
        self,
        features: Features,
        batch: CaptionBatch,
        *,
        keep: Tensor | None = None,
        generator: torch.Generator | None = None,
        product_dtype: torch.dtype | None = None,
    ) -> DecoderOutput:
        """Return the logits of every word of the batch, given the words before it.

        The result is the same for every `keep`, whose zeros are the steps at which the hidden
        state is detached; only gradients differ. Dropout acts in training mode and draws from
        `generator`.

        Shapes:
            keep [T] with T = batch.steps, product_dtype the precision of the large matrix products
            (None: that of the weights).
        """
        self._generator = generator
        kept, words = keep_values(keep, batch.steps), batch.words[batch.word_index]
        logits, attention = [], []
        with torch.autocast(words.device.type, product_dtype, enabled=product_dtype is not None):
            memory = self.prepare(features.select(batch.image_order))
            start = self.start(memory)
            rows = type(start)(*(part[batch.first_images, 0] for part in start))
            for step, keep_hidden in zip(batch.timeline, kept, strict=True):
                if step.survivors is not None:
                    rows = type(start)(*(part[step.survivors] for part in rows))
                state = type(start)(*map(step.to_grid, rows))
                seen = type(memory)(*(part[: step.active_images] for part in memory))
                result = self.step(
                    step.to_grid(words[step.tokens].unsqueeze(1)).squeeze(2),
                    state if keep_hidden else self.detached(state),
                    seen,
                )
                rows = type(start)(*map(step.from_grid, result.state))
                logits.append(step.from_grid(result.logits).to(features.grid.dtype))
                if result.attention is not None:
                    attention.append(step.from_grid(result.attention))
        self._generator = None
        return DecoderOutput(torch.cat(logits), torch.cat(attention) if attention else None)


def dropout(
    values: Tensor, rate: float, training: bool, generator: torch.Generator | None
) -> Tensor:
    """Zero each value with probability `rate` and scale up the rest, from an explicit generator.

    Four values share a draw of 64 bits, since on a CPU drawing costs more than all else here; so
    `rate` is met to 1/65,536.
    """
    if not training or rate == 0.0:
        return values
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device)
    draws.random_(-(2**63), None, generator=generator)
    lowest_kept = round(rate * 2**16) - 2**15
    keep = draws.view(torch.int16)[: values.numel()].view(values.shape) >= lowest_kept
    return values * keep.to(values.dtype).mul_(1.0 / (1.0 - rate))


def keep_values(keep: Tensor | None, steps: int) -> list[float]:
    """Return the mask as numbers, all ones where there is none.

    Raises:
        OptionError: the mask has another number of steps than the batch.
    """
    if keep is None:
        return [1.0] * steps
    if keep.shape != (steps,):
        raise OptionError(f"keep has shape {tuple(keep.shape)}; the batch has {steps} steps")
    return keep.tolist()
