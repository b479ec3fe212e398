"""Captions without photographs: batches of their own, whose images are attribute words alone.

A caption says which attributes a photograph of it could have. A few of those that it names, with
scores as a detector gives them, stand in for the photograph, and the decoder learns to write the
caption from them. So it learns words for things that are in no photograph it is trained on, but
that the detector finds (in the manner of Hendricks et al. 2016, who learn new objects from text).
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.attributes import AttributeDetector
from captioner.attributes.nouns import attributes_in
from captioner.decoders.batch import CaptionBatch
from captioner.errors import DataError
from captioner.features import Features
from captioner.prefetch import prefetched
from captioner.vocabulary import Vocabulary
from training.batches import EpochBatches, TrainingBatch, own_part
from training.config import TrainingConfig
from training.distributed import ALONE, Ranks
from training.feature_sources import Read
from training.randomness import derived_generator
from training.views import View

NAMED = 0.8  # probability that an attribute that the caption names is kept
MOST = 3  # attributes of a caption that are kept
SURE = (0.3, 0.9)  # scores of one of them,
LESS_SURE = (0.05, 0.4)  # and of the others
NOISE = 0.05  # highest score of the words that are drawn to fill up


class AttributesAlone:
    """A source of features without a photograph: what was read is the attributes themselves."""

    def __init__(self, feature_size: int, device: torch.device) -> None:
        self._feature_size = feature_size
        self._device = device

    def read(self, indices: Sequence[int], views: Sequence[View] | None = None) -> Read:
        raise NotImplementedError("attributes are drawn with the caption that they belong to")

    def features(self, read: Read) -> Features:
        attributes = read.payload.to(self._device)
        grid = attributes.new_zeros(len(attributes), 0, self._feature_size)
        return Features(grid, attributes)

    def close(self) -> None: ...


class _Caption(NamedTuple):
    tokens: Sequence[str]
    named: list[int]  # places of the attributes that it names, among all attributes
    references: list[Sequence[str]]  # all captions of its image


class AloneBatches:
    """Makes the batches of any epoch from captions, one row of attributes for each."""

    def __init__(
        self,
        captions: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        detector: AttributeDetector,
        config: TrainingConfig,
        *,
        count: int,
        feature_size: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """Take the words of each caption of each image, and fill up to `count` attributes.

        Raises:
            DataError: no caption names an attribute.
        """
        self._config = config
        self._ranks = ranks
        self._vocabulary = vocabulary
        self._device = device
        self._count = count
        self._num_attributes = detector.num_attributes
        self._source = AttributesAlone(feature_size, device)
        places = {vocabulary.words[w]: place for place, w in enumerate(detector.word_ids.tolist())}
        self._captions = [
            _Caption(tokens, named, [*of_image])
            for of_image in captions
            for tokens in of_image
            if (named := [places[word] for word in attributes_in(tokens, places)])
        ]
        self.left_out = sum(map(len, captions)) - len(self._captions)
        if not self._captions:
            raise DataError(
                "none of the captions without photographs names an attribute; leave them out"
            )
        self._batch_size = config.batch_size * config.captions_per_image
        self._drawn = max(1, round(config.alone_weight * len(self._captions)))
        self.steps_per_epoch = -(-self._drawn // self._batch_size)

    def __len__(self) -> int:
        return len(self._captions)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[TrainingBatch]:
        """Yield the batches of epoch `number` (from 0) from batch `start` on."""
        seed, size = self._config.seed, self._batch_size
        generator = derived_generator(seed, "captions alone", number)
        order: list[int] = []
        while len(order) < self._drawn:
            order += torch.randperm(len(self._captions), generator=generator).tolist()
        order = order[: self._drawn]
        longest = self._config.max_caption_length
        for batch in range(start, self.steps_per_epoch):
            chosen = [self._captions[place] for place in order[batch * size : (batch + 1) * size]]
            generator = derived_generator(seed, "attributes", number, batch)
            drawn = [(one, self._draw(one.named, generator)) for one in chosen]
            own = own_part(drawn, self._ranks)
            words = [[self._vocabulary.encode(one.tokens[:longest])] for one, _ in own]
            yield TrainingBatch(
                self._source,
                Read(list(range(len(own))), torch.stack([one for _, one in own]) if own else None),
                CaptionBatch.pack(words, device=self._device) if own else None,
                [one.references for one, _ in own],
            )

    def _draw(self, named: list[int], generator: torch.Generator) -> Tensor:
        """Return probabilities [A] that a detector could have given to the caption's photograph."""
        is_kept, scores = torch.rand(2, len(named), generator=generator).tolist()
        order = torch.randperm(len(named), generator=generator).tolist()
        kept = [number for number in order if is_kept[number] < NAMED][:MOST]
        attributes = torch.zeros(self._num_attributes)
        noise = torch.randint(self._num_attributes, (self._count,), generator=generator)
        attributes[noise] = NOISE * torch.rand(self._count, generator=generator)
        for rank, number in enumerate(kept):
            low, high = LESS_SURE if rank else SURE
            attributes[named[number]] = low + (high - low) * scores[number]
        return attributes


class MixedBatches:
    """Batches of photographs and of captions alone, mixed anew in each epoch."""

    def __init__(self, photographs: EpochBatches, alone: AloneBatches, seed: int) -> None:
        self._photographs = photographs
        self._alone = alone
        self._seed = seed
        self.steps_per_epoch = photographs.steps_per_epoch + alone.steps_per_epoch

    @property
    def num_images(self) -> int:
        return self._photographs.num_images

    @property
    def without_caption(self) -> int:
        return self._photographs.without_caption

    @property
    def references(self) -> list[list[Sequence[str]]]:
        """The words of all captions of each photograph that takes part."""
        return self._photographs.references

    def epoch(self, number: int, *, start: int = 0) -> Generator[TrainingBatch]:
        """Yield the batches of epoch `number` (from 0) from batch `start` on, made ahead."""
        return prefetched(self._make(number, start))

    def _make(self, number: int, start: int) -> Iterator[TrainingBatch]:
        order = torch.randperm(
            self.steps_per_epoch, generator=derived_generator(self._seed, "mixture", number)
        )
        is_alone = (order < self._alone.steps_per_epoch).tolist()
        over = sum(is_alone[:start])
        alone = self._alone.epoch(number, start=over)
        photographs = self._photographs.epoch(number, start=start - over)
        with closing(photographs):
            for one in is_alone[start:]:
                yield next(alone if one else photographs)
