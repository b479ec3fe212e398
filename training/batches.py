"""Batches of an epoch: which images, how they are augmented, which captions, in which order.

Several processes share out each batch, in its order, and make their own part of it. Everything
follows from the seed and the epoch's number, so a resumed run gets the same batches
without a stored state. Nothing else matters, so runs that differ in `--p` get the same batches.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch

from captioner.data.augment import swap_left_right
from captioner.data.karpathy import CaptionedImage
from captioner.decoders.batch import CaptionBatch
from captioner.errors import DataError
from captioner.prefetch import prefetched
from captioner.vocabulary import Vocabulary
from training.config import TrainingConfig
from training.distributed import ALONE, Ranks
from training.feature_sources import ImageSource, Read
from training.randomness import derived_generator
from training.views import View, draw_views

Item = TypeVar("Item")


class TrainingBatch(NamedTuple):
    source: ImageSource
    images: Read  # of that source
    captions: CaptionBatch | None  # None: there is no image, or every one is broken
    references: list[list[Sequence[str]]]  # the words of all captions of each readable image


class EpochPlan(NamedTuple):
    """Everything random about one epoch but masks and dropout; one entry per image drawn."""

    images: list[int]  # places in the list of training images
    order: list[int]  # of what is drawn
    views: list[View]
    caption_ranks: torch.Tensor  # [drawn, captions]: the captions with the lowest are taken


class EpochBatches:
    """Makes the batches of any epoch from the training images and its source of features.

    Images without a caption of at least one word, and those in `missing`, take no part. An epoch
    draws each image once, or as often as `config.data_weights` says of its set; the images come
    set by set, `set_sizes` of each.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        vocabulary: Vocabulary,
        source_of_epoch: Callable[[int], ImageSource],
        config: TrainingConfig,
        *,
        device: torch.device,
        missing: frozenset[int] = frozenset(),
        set_sizes: Sequence[int] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self._images = images
        self._vocabulary = vocabulary
        self._source_of_epoch = source_of_epoch
        self._config = config
        self._device = device
        self._usable = [
            index
            for index, image in enumerate(images)
            if index not in missing and any(image.tokens)
        ]
        self.without_caption = sum(not any(image.tokens) for image in images)
        if not self._usable:
            raise DataError(
                f"none of {len(images)} training images is readable and has a caption; "
                "look at it with: captioner data check"
            )
        self._shares = _shares(self._usable, set_sizes or [len(images)], config.data_weights)
        self.images_per_epoch = sum(
            whole * len(of_set) + part for of_set, whole, part in self._shares
        )
        self.steps_per_epoch = -(-self.images_per_epoch // config.batch_size)

    @property
    def num_images(self) -> int:
        return len(self._usable)

    @property
    def references(self) -> list[list[Sequence[str]]]:
        """The words of all captions of each image that takes part."""
        return [self._references(index, View()) for index in self._usable]

    def epoch(self, number: int, *, start: int = 0) -> Generator[TrainingBatch]:
        """Yield the batches of epoch `number` (from 0) from batch `start` on, made ahead."""
        return prefetched(self._make(number, start))

    def plan(self, number: int) -> EpochPlan:
        """Return the random choices of epoch `number`."""
        count, seed = self.images_per_epoch, self._config.seed
        images: list[int] = []
        for number_of_set, (of_set, whole, part) in enumerate(self._shares):
            images += of_set * whole
            if part:
                generator = derived_generator(seed, "drawn", number_of_set, number)
                drawn = torch.randperm(len(of_set), generator=generator)[:part]
                images += [of_set[place] for place in drawn.tolist()]
        order = torch.randperm(count, generator=derived_generator(seed, "order", number))
        views = draw_views(self._config, [self._images[one].filename for one in images], number)
        most = max(len(self._images[index].tokens) for index in self._usable)
        ranks = torch.rand(count, most, generator=derived_generator(seed, "captions", number))
        return EpochPlan(images, order.tolist(), views, ranks)

    def _make(self, number: int, start: int) -> Iterator[TrainingBatch]:
        plan, size = self.plan(number), self._config.batch_size
        source = self._source_of_epoch(number)
        for batch in range(start, self.steps_per_epoch):
            places = own_part(plan.order[batch * size : (batch + 1) * size], self._ranks)
            read = source.read(
                [plan.images[place] for place in places], [plan.views[place] for place in places]
            )
            readable = set(read.indices)  # an image may be drawn twice in one batch
            places = [place for place in places if plan.images[place] in readable]
            references, captions = [], []
            for index, place in zip(read.indices, places, strict=True):
                references.append(self._references(index, plan.views[place]))
                captions.append(self._captions(references[-1], plan.caption_ranks[place]))
            packed = CaptionBatch.pack(captions, device=self._device) if captions else None
            yield TrainingBatch(source, read, packed, references)

    def _references(self, index: int, view: View) -> list[Sequence[str]]:
        captions: list[Sequence[str]] = [tokens for tokens in self._images[index].tokens if tokens]
        return [swap_left_right(tokens) for tokens in captions] if view.is_mirrored else captions

    def _captions(self, captions: Sequence[Sequence[str]], ranks: torch.Tensor) -> list[list[int]]:
        """Return the captions that are trained on, as numbers."""
        limit = self._config.captions_per_image
        if len(captions) > limit:
            rank = ranks[: len(captions)].tolist()
            chosen = sorted(sorted(range(len(captions)), key=rank.__getitem__)[:limit])
            captions = [captions[caption] for caption in chosen]
        longest = self._config.max_caption_length
        return [self._vocabulary.encode(tokens[:longest]) for tokens in captions]


def own_part(of_batch: Sequence[Item], ranks: Ranks) -> list[Item]:
    """Return what this process holds of a batch: one after the other, they hold all of it."""
    start, end = (len(of_batch) * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
    return list(of_batch[start:end])


class _Share(NamedTuple):
    images: list[int]  # the usable ones of a set
    whole: int  # how often an epoch draws all of them,
    part: int  # and how many of them once more


def _shares(
    usable: Sequence[int], set_sizes: Sequence[int], weights: Sequence[float]
) -> list[_Share]:
    """Return what an epoch draws of each set, by the numbers of `--data-weights`."""
    shares, start = [], 0
    for size, weight in zip(set_sizes, weights or [1.0] * len(set_sizes), strict=True):
        images = [index for index in usable if start <= index < start + size]
        drawn = max(1, round(weight * len(images)))
        whole, part = divmod(drawn, len(images)) if images else (0, 0)
        shares.append(_Share(images, whole, part))
        start += size
    return shares
