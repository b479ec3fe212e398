"""Detectors of attributes against loops over classes, positions and words."""

import math

import pytest
import torch

from captioner.attributes import (
    DETECTORS,
    Classifier,
    ClassifierAndInstances,
    InstanceDetector,
)
from captioner.errors import OptionError

GRID = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WORDS_OF_CLASSES = [7, None, 4, 7, 9, None]  # ids in the vocabulary, by class


def weights(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    return drawn[:, :5], drawn[:, 5]


def classifier() -> Classifier:
    detector = Classifier().double()
    detector.take(*weights(6, 2), WORDS_OF_CLASSES)
    return detector


def instances() -> InstanceDetector:
    detector = InstanceDetector().double()
    detector.take(*weights(2, 3), [9, 5])
    return detector


def both() -> ClassifierAndInstances:
    detector = ClassifierAndInstances().double()
    detector.classifier.take(*weights(6, 2), WORDS_OF_CLASSES)
    detector.instances.take(*weights(2, 3), [9, 5])
    detector.join()
    return detector


def by_word(detector, image: int) -> dict[int, float]:
    return dict(zip(detector.word_ids.tolist(), detector(GRID)[image].tolist(), strict=True))


def naive_classifier(image: int) -> dict[int, float]:
    weight, bias = weights(6, 2)
    mean = [sum(GRID[image, p, d].item() for p in range(4)) / 4 for d in range(5)]
    logits = [
        sum(w.item() * m for w, m in zip(row, mean, strict=True)) + b.item()
        for row, b in zip(weight, bias, strict=True)
    ]
    total = sum(map(math.exp, logits))
    found: dict[int, float] = {}
    for word, logit in zip(WORDS_OF_CLASSES, logits, strict=True):
        if word is not None:
            found[word] = found.get(word, 0.0) + math.exp(logit) / total
    return found


def naive_instances(image: int) -> dict[int, float]:
    weight, bias = weights(2, 3)
    found = {}
    for word, row, b in zip([9, 5], weight, bias, strict=True):
        absent = 1.0
        for p in range(4):
            logit = sum((row[d] * GRID[image, p, d]).item() for d in range(5)) + b.item()
            absent *= 1.0 - 1.0 / (1.0 + math.exp(-logit))
        found[word] = 1.0 - absent
    return found


@pytest.mark.parametrize("image", range(3))
def test_classes_that_share_a_word_are_summed(image):
    assert by_word(classifier(), image) == pytest.approx(naive_classifier(image), rel=1e-12)


@pytest.mark.parametrize("image", range(3))
def test_a_word_is_there_if_any_position_shows_it(image):
    assert by_word(instances(), image) == pytest.approx(naive_instances(image), rel=1e-12)


@pytest.mark.parametrize("image", range(3))
def test_both_together_take_the_higher_probability(image):
    expected = naive_classifier(image)
    for word, score in naive_instances(image).items():
        expected[word] = max(score, expected.get(word, 0.0))
    assert by_word(both(), image) == pytest.approx(expected, rel=1e-12)


def test_the_best_words_come_first():
    detector = classifier()
    places, scores = detector.best(detector(GRID), 2)
    for image in range(3):
        ranked = sorted(naive_classifier(image).items(), key=lambda pair: -pair[1])[:2]
        assert detector.word_ids[places[image]].tolist() == [word for word, _ in ranked]
        assert scores[image].tolist() == pytest.approx([score for _, score in ranked])


def test_more_attributes_than_words_are_refused_in_one_line():
    detector = classifier()
    with pytest.raises(OptionError, match="--attributes is 4 and the detector knows 3 words"):
        detector.best(detector(GRID), 4)


@pytest.mark.parametrize("make", [classifier, instances, both])
def test_an_empty_detector_takes_its_sizes_from_the_state(make):
    full = make()
    (empty,) = [kind() for kind in DETECTORS.values() if isinstance(full, kind)]
    empty.double().load_state_dict(full.state_dict())
    assert torch.equal(empty(GRID), full(GRID))
    assert torch.equal(empty.word_ids, full.word_ids)


@pytest.mark.parametrize("make", [classifier, instances, both])
def test_a_detector_has_nothing_to_train(make):
    assert list(make().parameters()) == []
