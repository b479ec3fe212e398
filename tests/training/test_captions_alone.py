"""Captions without photographs: what stands in for the photograph, and their batches."""

from dataclasses import replace

import pytest
import torch

from captioner.attributes import Classifier
from captioner.errors import DataError
from captioner.vocabulary import Vocabulary
from training.captions_alone import (
    LESS_SURE,
    MOST,
    NOISE,
    SURE,
    AloneBatches,
    MixedBatches,
)
from training.config import TrainingConfig

ATTRIBUTES = ("dog", "bus", "pizza", "table", "zebra")
CAPTIONS = [
    [["two", "zebras"], ["a", "zebra", "near", "a", "bus"]],
    [["a", "man"], ["a", "dog", "a", "pizza", "a", "table", "a", "bus"]],
    *([["a", "pizza", "on", "a", "table"]] for _ in range(200)),
]
VOCABULARY = Vocabulary.build(
    [*(tokens for of_image in CAPTIONS for tokens in of_image), list(ATTRIBUTES)], min_count=1
)
CONFIG = TrainingConfig(batch_size=2, captions_per_image=5, seed=3)
CPU = torch.device("cpu")


def detector() -> Classifier:
    made = Classifier()
    made.take(torch.zeros(5, 7), torch.zeros(5), VOCABULARY.encode(ATTRIBUTES))
    return made


def alone(config=CONFIG, captions=CAPTIONS, count=4) -> AloneBatches:
    return AloneBatches(
        captions, VOCABULARY, detector(), config, count=count, feature_size=7, device=CPU
    )


def drawn(made: AloneBatches, epochs: int = 1):
    """Yield the words of each caption with its attributes above the noise, and those within it."""
    names = [VOCABULARY.words[word] for word in detector().word_ids]
    for epoch in range(epochs):
        for batch in made.epoch(epoch):
            features = batch.source.features(batch.images)
            assert features.grid.shape == (len(features.attributes), 0, 7)
            for row, references in zip(features.attributes.tolist(), batch.references, strict=True):
                scores = dict(zip(names, row, strict=True))
                strong = {name: score for name, score in scores.items() if score > NOISE}
                weak = {name: score for name, score in scores.items() if 0 < score <= NOISE}
                yield references, strong, weak


def test_captions_that_name_no_attribute_are_left_out():
    made = alone()
    assert (len(made), made.left_out) == (203, 1)
    with pytest.raises(DataError, match="none of the captions"):
        alone(captions=[[["a", "man"]]])


def test_attributes_are_those_that_the_caption_names():
    for references, strong, _ in drawn(alone()):
        named = {"zebra" if word == "zebras" else word for tokens in references for word in tokens}
        assert strong.keys() <= named


def test_one_attribute_is_sure_and_at_most_three_are_kept():
    numbers = []
    for _, strong, _ in drawn(alone(captions=[CAPTIONS[1]]), epochs=200):
        scores = sorted(strong.values(), reverse=True)
        numbers.append(len(scores))
        assert all(LESS_SURE[0] <= score <= SURE[1] for score in scores)
        if scores:
            assert scores[0] >= SURE[0]
    assert max(numbers) == MOST
    # Of four named ones each is kept with probability 0.8; more than three are cut to three.
    assert sum(numbers) / 200 == pytest.approx(4 * 0.8 - 0.8**4, abs=0.15)


def test_random_words_fill_up_with_small_scores():
    weak = [name for _, _, found in drawn(alone()) for name in found]
    assert set(weak) == set(ATTRIBUTES)


def test_every_caption_comes_once_an_epoch_and_epochs_differ():
    made = alone()
    epochs = [[batch.captions.targets.tolist() for batch in made.epoch(e)] for e in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert len(epochs[0]) == made.steps_per_epoch == 21
    kept = [tokens for of_image in CAPTIONS for tokens in of_image if tokens != ["a", "man"]]
    total = sum(len(tokens) + 1 for tokens in kept)  # with the end
    assert sum(map(len, epochs[0])) == total


@pytest.mark.parametrize(("weight", "drawn"), [(0.25, 51), (1.0, 203), (2.5, 508)])
def test_an_epoch_draws_as_many_as_the_weight_says(weight, drawn):
    made = alone(replace(CONFIG, alone_weight=weight))
    sizes = [batch.captions.num_captions for batch in made.epoch(0)]
    assert (sum(sizes), len(sizes)) == (drawn, made.steps_per_epoch)


def test_an_epoch_goes_on_where_it_was_left():
    made = alone()
    whole = [batch.images.payload for batch in made.epoch(2)]
    rest = [batch.images.payload for batch in made.epoch(2, start=15)]
    assert all(torch.equal(a, b) for a, b in zip(whole[15:], rest, strict=True))


class Photographs:
    """Stands in for the batches of photographs: their numbers."""

    steps_per_epoch, num_images, without_caption = 30, 60, 0

    def epoch(self, number: int, *, start: int = 0):
        yield from ((number, step) for step in range(start, self.steps_per_epoch))


def test_both_kinds_are_mixed_and_resumed_at_any_step():
    made = alone()
    mixed = MixedBatches(Photographs(), made, seed=5)
    assert mixed.steps_per_epoch == 51

    def kinds(start: int):
        return [
            batch if type(batch) is tuple else batch.images.payload.sum().item()
            for batch in mixed.epoch(1, start=start)
        ]

    whole = kinds(0)
    assert [one for one in whole if isinstance(one, tuple)] == [(1, step) for step in range(30)]
    assert sorted(isinstance(one, tuple) for one in whole[:25]) != [False] * 25
    for start in (1, 20, 50):
        assert kinds(start) == whole[start:]
    other = MixedBatches(Photographs(), alone(replace(CONFIG, seed=4)), seed=6)
    order = [isinstance(batch, tuple) for batch in other.epoch(1)]
    assert order != [isinstance(one, tuple) for one in whole]
