"""What every decoder offers: a training pass over packed captions, and single steps for search.

Shape letters: B images, K captions or beams per image, T steps, P positions of the grid,
D features, H hidden, V words in the vocabulary.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from captioner.decoders.batch import CaptionBatch
from captioner.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of a decoder and what it detaches; everything needed to build it again."""

    vocabulary_size: int
    feature_size: int  # of the encoder's grid features
    hidden_size: int = 512
    embedding_size: int = 512  # of a word
    attention_size: int = 512  # hidden layer of the attention
    feature_embedding_size: int = 0  # features are embedded to this size first; 0: used as they are
    dropout: float = 0.5  # of embedded images or features, and of the LSTM's output
    detach_attention: bool = False  # h-detach cuts the attention's query as well

    def __post_init__(self) -> None:
        for name in (
            "vocabulary_size",
            "feature_size",
            "hidden_size",
            "embedding_size",
            "attention_size",
        ):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.feature_embedding_size < 0:
            raise OptionError(
                f"feature_embedding_size is {self.feature_embedding_size}; give 0 for none"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise OptionError(f"dropout is {self.dropout}; it must be at least 0 and below 1")


class State(NamedTuple):
    """The recurrent state of K rows per image."""

    h: Tensor  # [B, K, H]
    c: Tensor  # [B, K, H]

    def select(self, parents: Tensor) -> "State":
        """Return the states of the chosen rows: parents [B, K'] -> [B, K', H]."""
        index = parents.unsqueeze(-1).expand(-1, -1, self.h.shape[-1])
        return State(self.h.gather(1, index), self.c.gather(1, index))

    def images(self, images: Tensor) -> "State":
        """Return the states of some of the images: images [n] -> [n, K, H]."""
        return State(self.h.index_select(0, images), self.c.index_select(0, images))


class Memory(NamedTuple):
    """What a decoder looks at, computed once per image and never copied per caption."""

    keys: Tensor  # [B, P, A], or [B, H] for a decoder that sees the image once
    values: Tensor  # [B, P, D], or [B, H]

    def select(self, images: Tensor) -> "Memory":
        """Return the memory of some of the images: images [n]."""
        return Memory(self.keys.index_select(0, images), self.values.index_select(0, images))


class Step(NamedTuple):
    """What one step of a decoder yields."""

    logits: Tensor  # [B, K, V]
    state: State
    attention: Tensor | None  # [B, K, P], each row summing to 1


class DecoderOutput(NamedTuple):
    """What a training pass yields, packed by token as the batch is."""

    logits: Tensor  # [tokens, V]
    attention: Tensor | None  # [tokens, P]


class Decoder(nn.Module, ABC):
    """A language model of captions, conditioned on the grid features of an image."""

    name: ClassVar[str]
    config: DecoderConfig

    @abstractmethod
    def forward(
        self,
        grid_features: Tensor,
        batch: CaptionBatch,
        *,
        keep: Tensor | None = None,
        generator: torch.Generator | None = None,
        product_dtype: torch.dtype | None = None,
    ) -> DecoderOutput:
        """Return the logits of every word of the batch, given the words before it.

        The result is the same for every `keep`; only gradients differ. Dropout acts in training
        mode and draws from `generator`.

        Shapes:
            grid_features [B, P, D], keep [T] with T = batch.steps, product_dtype the precision of
            the large matrix products (None: that of the weights).
        """

    @abstractmethod
    def prepare(self, grid_features: Tensor) -> Memory:
        """Return what every step needs of the images: grid_features [B, P, D]."""

    @abstractmethod
    def start(self, memory: Memory) -> State:
        """Return the state before the start token, one row per image: [B, 1, H]."""

    @abstractmethod
    def step(self, words: Tensor, state: State, memory: Memory) -> Step:
        """Return the logits of the next word: words [B, K] with a state of as many rows.

        What a row yields is the same bits whatever the other rows and images are, so that a batch
        changes no caption (module `steady`).
        """


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


def caption_loss(
    output: DecoderOutput,
    batch: CaptionBatch,
    *,
    label_smoothing: float = 0.0,
    attention_regulariser: float = 0.0,
) -> Tensor:
    """Return the mean cross-entropy per word, plus the doubly stochastic term.

    Source:
        Xu et al. 2015, equation 14: attention_regulariser * sum_i (1 - sum_t alpha_ti)^2 over the
        positions i, averaged over captions.
    """
    loss = nn.functional.cross_entropy(
        output.logits, batch.targets, label_smoothing=label_smoothing
    )
    if attention_regulariser > 0.0 and output.attention is not None:
        loss = loss + attention_regulariser * _uneven_attention(output.attention, batch)
    return loss


def _uneven_attention(attention: Tensor, batch: CaptionBatch) -> Tensor:
    row = torch.arange(batch.num_captions, device=attention.device)
    rows = []
    for step in batch.timeline:
        row = row if step.survivors is None else row[step.survivors]
        rows.append(row)
    total = attention.new_zeros(batch.num_captions, attention.shape[1])
    total = total.index_add(0, torch.cat(rows), attention)
    return (1.0 - total).square().sum(1).mean()
