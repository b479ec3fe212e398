"""Attribute words as items that a decoder attends to beside the grid of features.

Each of the N most probable words becomes its own embedding and its probability, sent through a
linear layer to the size of a position's features (after You et al. 2016, who attend to attributes
apart from the image).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captioner.attributes import DETECTORS, AttributeDetector
from captioner.decoders.interface import Attributes, DecoderOptions
from captioner.features import Features
from captioner.options import NOT_NEGATIVE, option


def detector_option(default: str) -> Any:
    """Return the option that chooses the detector, for decoders with another default as well."""
    return option(
        default,
        "what finds attribute words: classifier (the encoder's own, its classes as caption words), "
        "mil (caption words learned on the grid) or both",
        choices=tuple(DETECTORS),
    )


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(DecoderOptions):
    """The options of every decoder that reads attributes."""

    attributes: int = option(
        0, "most probable attribute words to attend to beside the image", within=NOT_NEGATIVE
    )
    attribute_detector: str = detector_option("classifier")


class AttributeItems(nn.Module):
    """Makes items of an image's most probable attributes."""

    def __init__(self, options: AttributeOptions, size: int) -> None:
        super().__init__()
        self.count = options.attributes
        self.detector: AttributeDetector = DETECTORS[options.attribute_detector]()
        self.layer = nn.Linear(options.embedding_size + 1, size)
        self._table: Tensor | None = None  # what each word adds to an item, once it is fixed

    def forward(self, features: Features, embedding: nn.Embedding) -> tuple[Tensor, Attributes]:
        """Return the items [B, N, size] of the attributes, given or else detected, and these.

        Raises:
            OptionError: the detector knows fewer words than the decoder is to attend to.
        """
        known = features.attributes
        if known is None:
            known = self.detector(features.grid)
        places, scores = self.detector.best(known, self.count)
        words = self.detector.word_ids[places]
        if self._table is None:
            of_words = self._of_words(words, embedding)
        else:
            of_words = nn.functional.embedding(places, self._table)
        items = of_words + scores.unsqueeze(2) * self.layer.weight[:, -1]
        return items, Attributes(words, scores)

    def fold(self, embedding: nn.Embedding) -> None:
        """Make the table of what the words add; the weights are fixed from now on."""
        with torch.no_grad():
            self._table = self._of_words(self.detector.word_ids, embedding)

    def _of_words(self, words: Tensor, embedding: nn.Embedding) -> Tensor:
        """Return the layer's result for words [...] with probability zero: [..., size]."""
        weight = self.layer.weight[:, :-1]
        return nn.functional.linear(embedding(words), weight, self.layer.bias)
