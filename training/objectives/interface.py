"""Interface of objectives: the losses that training minimises."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from captioner.decoders import CaptionBatch, Decoder, DecoderOutput
from captioner.features import Features
from captioner.hdetach.masks import sample_keep
from captioner.options import Options
from captioner.vocabulary import Vocabulary
from training.distributed import ALONE, WHOLE, Portion, Ranks


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Options):
    """The options of an objective, which derives from it with fields made by `option`."""

    def contradictions_with(self, decoder: type[Decoder]) -> Iterable[str]:  # noqa: ARG002
        """Return what the options ask for and this decoder lacks, a line for each."""
        return ()

    @property
    def uses_captions_alone(self) -> bool:
        """Say whether captions without photographs take part."""
        return True


class ObjectiveBatch(NamedTuple):
    """What an objective is computed from."""

    features: Features  # with gradients where the encoder is trained
    captions: CaptionBatch
    references: Sequence[Sequence[Sequence[str]]]  # of each image: the words of all its captions
    portion: Portion = WHOLE  # what this process holds of the whole batch


@dataclass(frozen=True)
class DecoderPass:
    """How a decoder is run on captions in training: h-detach, dropout, precision."""

    p: float  # probability to detach
    masks: torch.Generator
    dropout: torch.Generator  # on the device of the training, as the next
    draws: torch.Generator  # of an objective, and of a decoder, that draws something
    product_dtype: torch.dtype | None
    ranks: Ranks = ALONE

    def __call__(
        self, decoder: Decoder, features: Features, captions: CaptionBatch
    ) -> DecoderOutput:
        """Draw a mask and return the logits of every word of the captions.

        The mask is one of the whole batch: all processes draw it for the longest caption of any.
        """
        steps = captions.steps
        longest = self.ranks.most(steps) if self.p else steps
        keep = sample_keep(longest, self.p, generator=self.masks)[:steps]
        drawing = {"draws": self.draws} if decoder.samples_in_training else {}
        return decoder(
            features,
            captions,
            keep=keep,
            generator=self.dropout,
            product_dtype=self.product_dtype,
            **drawing,
        )


class Objective(ABC):
    """A loss of a decoder on a batch.

    An objective declares its `Options` and defines `__call__`. What it draws comes from the
    generators of the `DecoderPass`, so that a resumed run draws the same.
    """

    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions
    needs_trained_model: ClassVar[bool] = False  # random weights teach it nothing
    settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options of the training that go well with it, where the user does not give them."""

    def __init__(self, options: Any, vocabulary: Vocabulary) -> None:
        self.options = options
        self.vocabulary = vocabulary

    def begin(self, references: Sequence[Sequence[Sequence[str]]]) -> None:  # noqa: B027
        """Take in the words of all captions of each training image, before the first batch."""

    @abstractmethod
    def __call__(
        self, decoder: Decoder, batch: ObjectiveBatch, run_decoder: DecoderPass
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss, and figures by name that are logged beside it: scalars all of them.

        They are means over the words of the batch; for other means see `Portion`. Gradients flow
        from the loss to the decoder and the features.
        """
