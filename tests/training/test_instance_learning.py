"""Multiple instance learning: words of captions are found at the position that shows them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from captioner.attributes import InstanceDetector
from captioner.data.karpathy import CaptionedImage
from captioner.errors import DataError
from captioner.features import Features
from captioner.vocabulary import Vocabulary
from training import instance_learning
from training.feature_sources import Read

WORDS = ("dog", "kite", "snow")


class Grids:
    def __init__(self, grids: torch.Tensor) -> None:
        self.grids = grids

    def read(self, indices, views=None):  # noqa: ARG002
        return Read(list(indices), self.grids[list(indices)])

    def features(self, read):
        return Features(read.payload)


def pictures(count: int, seed: int) -> tuple[list[CaptionedImage], Grids]:
    """Return images of which each word has one position with a feature of its own."""
    random = np.random.default_rng(seed)
    grids = 0.1 * torch.from_numpy(random.standard_normal((count, 9, 8))).float()
    images = []
    for number in range(count):
        named = [word for word in range(3) if random.random() < 0.4]
        for word in named:
            grids[number, random.integers(9), word] += 1.0
        captions = (
            ("a", *(f"{WORDS[word]}s" for word in named)),
            ("the", "dogs" if 0 in named else "a"),
        )
        images.append(CaptionedImage(number, Path(), "", "train", ("", ""), captions))
    return images, Grids(grids)


def test_words_are_found_at_the_position_that_shows_them():
    train, source = pictures(600, 1)
    val, other = pictures(100, 2)
    vocabulary = Vocabulary.build(
        [*(tokens for image in train for tokens in image.tokens), list(WORDS)], min_count=1
    )
    detector, lines = InstanceDetector(), []
    found = instance_learning.fit(
        detector,
        WORDS,
        instance_learning.seen(train, source, WORDS),
        instance_learning.seen(val, other, WORDS),
        vocabulary,
        epochs=40,
        seed=0,
        announce=lines.append,
    )
    assert found > 0.95
    assert f"mean average precision {found:.4f} on val" in "".join(lines)
    assert [vocabulary.words[word] for word in detector.word_ids] == list(WORDS)
    assert detector.weight.argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("broken", [{0}, set(range(70)), set(range(200))])
def test_photographs_that_cannot_be_read_are_left_out(broken):
    train, source = pictures(200, 1)
    readable = source.read
    source.read = lambda indices: readable([one for one in indices if one not in broken])
    vocabulary = Vocabulary.build(
        [*(tokens for image in train for tokens in image.tokens), list(WORDS)], min_count=1
    )
    seen = instance_learning.seen(train, source, WORDS)
    given = {"epochs": 1, "seed": 0, "announce": lambda _: None}
    if len(broken) == 200:
        with pytest.raises(DataError, match="no training image can be read"):
            instance_learning.fit(InstanceDetector(), WORDS, seen, seen, vocabulary, **given)
    else:
        found = instance_learning.fit(InstanceDetector(), WORDS, seen, seen, vocabulary, **given)
        assert 0 < found <= 1


def test_the_words_are_content_words_of_most_photographs():
    tokens = [("a", "dog"), ("a", "dog", "in", "the", "snow"), ("dogs",), ("two", "kites")]
    images = [
        CaptionedImage(n, Path(), "", "train", ("",), (words,)) for n, words in enumerate(tokens)
    ]
    vocabulary = Vocabulary.build(tokens, min_count=1)
    assert instance_learning.attribute_words(images, vocabulary, 9) == ["dog", "kites", "snow"]
    assert instance_learning.attribute_words(images, vocabulary, 1) == ["dog"]


@pytest.mark.parametrize("seed", range(3))
def test_mean_average_precision_is_that_of_its_definition(seed):
    random = np.random.default_rng(seed)
    scores, labels = random.random((20, 4)), (random.random((20, 4)) < 0.4).astype(float)
    labels[:, 3] = 0
    labels[0, 3] = 1  # too rare to count
    expected = []
    for word in range(3):
        ranked = labels[np.argsort(-scores[:, word]), word]
        precisions = [ranked[: k + 1].mean() for k in range(20) if ranked[k]]
        expected.append(np.mean(precisions))
    ours = instance_learning._mean_average_precision(
        torch.from_numpy(scores), torch.from_numpy(labels)
    )
    assert ours == pytest.approx(np.mean(expected))
