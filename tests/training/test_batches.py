"""The batches of an epoch: all images once, their captions, and the same for every p."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.data.karpathy import CaptionedImage
from captioner.errors import DataError
from captioner.features import Features
from captioner.vocabulary import END, Vocabulary
from training.batches import EpochBatches, TrainingBatch
from training.config import TrainingConfig
from training.feature_sources import Read
from training.views import View


class RecordingSource:
    """Pretends to read images, and keeps what it was asked for; `broken` ones are left out."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.broken = broken
        self.asked: list[tuple[int, View]] = []

    def read(self, indices: Sequence[int], views: Sequence[View] | None = None) -> Read:
        assert views is not None
        self.asked += zip(indices, views, strict=True)
        return Read([index for index in indices if index not in self.broken], None)

    def features(self, read: Read) -> Features:
        raise NotImplementedError


def image(number: int, captions: Sequence[str]) -> CaptionedImage:
    return CaptionedImage(
        image_id=number,
        path=Path(f"{number}.jpg"),
        filename=f"{number}.jpg",
        split="train",
        captions=tuple(captions),
        tokens=tuple(tuple(caption.split()) for caption in captions),
    )


IMAGES = [image(n, [f"w{n} left", f"w{n} right today", f"w{n}"]) for n in range(10)]
VOCABULARY = Vocabulary.build((tokens for one in IMAGES for tokens in one.tokens), min_count=1)


def batches_of(
    config: TrainingConfig, images: Sequence[CaptionedImage] = IMAGES, **options: Any
) -> tuple[EpochBatches, RecordingSource]:
    source = options.pop("source", None) or RecordingSource()
    cpu = torch.device("cpu")
    made = EpochBatches(images, VOCABULARY, lambda _: source, config, device=cpu, **options)
    return made, source


def words(batch: TrainingBatch) -> list[str]:
    assert batch.captions is not None
    return sorted(VOCABULARY.words[target] for target in batch.captions.targets.tolist())


def test_an_epoch_meets_every_image_once_with_all_its_captions() -> None:
    batches, _ = batches_of(TrainingConfig(batch_size=4))
    epoch = list(batches.epoch(0))
    assert batches.steps_per_epoch == len(epoch) == 3
    assert sorted(index for batch in epoch for index in batch.images.indices) == list(range(10))
    for batch in epoch:
        expected = [
            word
            for index in batch.images.indices
            for tokens in IMAGES[index].tokens
            for word in (*tokens, VOCABULARY.words[END])
        ]
        assert words(batch) == sorted(expected)


def test_order_depends_on_seed_and_epoch_but_not_on_p() -> None:
    def order(config: TrainingConfig, epoch: int) -> list[int]:
        batches, _ = batches_of(config)
        return [index for batch in batches.epoch(epoch) for index in batch.images.indices]

    first = order(TrainingConfig(batch_size=4), 0)
    assert order(TrainingConfig(batch_size=4, p=0.4), 0) == first
    assert order(TrainingConfig(batch_size=4), 1) != first
    assert order(TrainingConfig(batch_size=4, seed=1), 0) != first


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    config = TrainingConfig(batch_size=3, horizontal_flip=True, captions_per_image=2)
    whole = [(batch.images.indices, words(batch)) for batch in batches_of(config)[0].epoch(5)]
    rest = [
        (batch.images.indices, words(batch)) for batch in batches_of(config)[0].epoch(5, start=2)
    ]
    assert rest == whole[2:]


def test_a_mirrored_image_has_mirrored_captions() -> None:
    batches, source = batches_of(TrainingConfig(batch_size=1, horizontal_flip=True))
    seen = set()
    for epoch in range(4):
        for batch in batches.epoch(epoch):
            [index] = batch.images.indices
            view = dict(source.asked)[index]
            seen.add(view.is_mirrored)
            assert batch.captions is not None
            targets = [VOCABULARY.words[target] for target in batch.captions.targets.tolist()]
            # The longest caption is "w right today", or "w left today" in the mirror.
            assert targets.count("left") == targets.count("right") == 1
            before_today = "left" if view.is_mirrored else "right"
            longest = batch.captions.timeline[2].tokens
            assert targets[longest] in (["today", "<end>"], ["<end>", "today"])
            row = targets[longest].index("today")
            assert targets[batch.captions.timeline[1].tokens][row] == before_today
        source.asked.clear()
    assert seen == {True, False}


def test_without_the_option_nothing_is_mirrored() -> None:
    batches, source = batches_of(TrainingConfig())
    list(batches.epoch(0))
    assert {view for _, view in source.asked} == {View()}


def test_crops_keep_at_least_the_asked_share() -> None:
    config = TrainingConfig(random_crop=0.6, fine_tune_encoder="all")
    batches, source = batches_of(config)
    list(batches.epoch(0))
    crops = [view.crop for _, view in source.asked]
    assert all(
        crop is not None and 0.6 <= crop[0] <= 1 and 0.75 <= crop[1] <= 4 / 3 for crop in crops
    )
    assert len(set(crops)) == len(crops)


def test_of_many_captions_some_are_drawn_anew_each_epoch() -> None:
    images = [image(0, [f"w{number}" for number in range(8)])]
    config = TrainingConfig(captions_per_image=3)
    drawn = set()
    for epoch in range(6):
        [batch] = batches_of(config, images)[0].epoch(epoch)
        assert batch.captions is not None
        assert batch.captions.num_captions == 3
        drawn.add(tuple(words(batch)))
    assert len(drawn) > 1


def test_long_captions_are_cut() -> None:
    batches, _ = batches_of(TrainingConfig(max_caption_length=1))
    [batch] = batches.epoch(0)
    assert batch.captions is not None
    assert batch.captions.steps == 2


def test_what_has_no_caption_or_is_missing_takes_no_part() -> None:
    images = [*IMAGES, image(10, []), image(11, [""])]
    batches, _ = batches_of(TrainingConfig(), images, missing=frozenset({3}))
    [batch] = batches.epoch(0)
    assert batches.without_caption == 2
    assert batches.num_images == 9
    assert sorted(batch.images.indices) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_an_image_that_turns_out_broken_is_left_out_of_its_batch() -> None:
    source = RecordingSource(broken=[2])
    batches, _ = batches_of(TrainingConfig(), source=source)
    [batch] = batches.epoch(0)
    assert batch.captions is not None
    assert len(batch.captions.image_order) == 9
    assert "w2" not in words(batch)


def test_a_batch_of_broken_images_is_empty() -> None:
    source = RecordingSource(broken=range(10))
    batches, _ = batches_of(TrainingConfig(), source=source)
    assert [batch.captions for batch in batches.epoch(0)] == [None]


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 1 training images is readable and has a caption"):
        batches_of(TrainingConfig(), [image(0, [])])


def test_batch_size_counts_images() -> None:
    config = replace(TrainingConfig(), batch_size=7)
    sizes = [len(batch.images.indices) for batch in batches_of(config)[0].epoch(0)]
    assert sizes == [7, 3]


def test_the_weight_of_a_set_is_how_often_its_images_are_drawn() -> None:
    config = TrainingConfig(batch_size=4, data=("a", "b"), data_weights=(0.5, 2.25))
    batches, _ = batches_of(config, set_sizes=[6, 4], missing=frozenset({5}))
    assert batches.images_per_epoch == 2 + 9  # of five and of four
    assert batches.steps_per_epoch == 3
    totals: Counter[int] = Counter()
    for epoch in range(200):
        drawn = [index for batch in batches.epoch(epoch) for index in batch.images.indices]
        counts = Counter(drawn)
        assert sum(counts[index] for index in range(6)) == 2
        assert max(counts[index] for index in range(6)) == 1
        assert sorted(counts[index] for index in range(6, 10)) == [2, 2, 2, 3]
        totals.update(counts)
    assert totals[5] == 0
    assert all(60 < totals[index] < 100 for index in range(5))  # 80 expected
    assert all(430 < totals[index] < 470 for index in range(6, 10))  # 450 expected


def test_an_image_that_is_drawn_twice_in_one_batch_has_two_views_and_its_own_captions() -> None:
    config = TrainingConfig(
        batch_size=40, data=("a",), data_weights=(4.0,), horizontal_flip=True, captions_per_image=1
    )
    batches, source = batches_of(config, source=RecordingSource(broken=[3]))
    [batch] = list(batches.epoch(0))
    assert Counter(batch.images.indices) == {n: 4 for n in range(10) if n != 3}
    views = [view for index, view in source.asked if index != 3]
    for index, view, references in zip(batch.images.indices, views, batch.references, strict=True):
        assert list(references[0]) == [f"w{index}", "right" if view.is_mirrored else "left"]
    assert len({view.is_mirrored for view in views}) == 2


def test_a_weight_of_one_changes_nothing() -> None:
    weighted = TrainingConfig(batch_size=4, data=("a", "b"), data_weights=(1.0, 1.0))
    batches, _ = batches_of(weighted, set_sizes=[6, 4])
    plain, _ = batches_of(TrainingConfig(batch_size=4))
    for epoch in range(2):
        assert [batch.images.indices for batch in batches.epoch(epoch)] == [
            batch.images.indices for batch in plain.epoch(epoch)
        ]
