"""A checkpoint's classifier with the present words of ImageNet's classes."""

import importlib.util
from pathlib import Path

import torch

from captioner.attributes import Classifier
from captioner.attributes.imagenet import CLASSES
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

_PATH = Path(__file__).parents[2] / "scripts" / "renew_attribute_words.py"
_spec = importlib.util.spec_from_file_location("renew_attribute_words", _PATH)
renew_attribute_words = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(renew_attribute_words)

CARDIGAN_DOG, CARDIGAN, PIZZA, ZEBRA = 264, 474, 963, 340


def test_classes_count_for_their_present_words_as_far_as_they_were_learned() -> None:
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "dog", "sweater", "animal", "zebra"))
    ids: list[int | None] = [None] * CLASSES
    dog, sweater, animal = (vocabulary.encode([word])[0] for word in ("dog", "sweater", "animal"))
    ids[CARDIGAN_DOG], ids[CARDIGAN], ids[ZEBRA], ids[PIZZA] = sweater, sweater, animal, dog
    detector = Classifier()
    detector.take(torch.randn(CLASSES, 3), torch.randn(CLASSES), ids)
    weight = detector.weight.clone()

    assert renew_attribute_words.renew(detector, vocabulary) > 2
    assert detector.word_ids.tolist() == sorted((dog, sweater, animal))
    torch.testing.assert_close(detector.weight, weight)
    found = detector.words_of_classes
    assert found[CARDIGAN_DOG].tolist() == [1, 0, 0]
    assert found[CARDIGAN].tolist() == [0, 1, 0]
    assert found[ZEBRA].tolist() == [0, 0, 1]  # the word zebra is no attribute that was learned
    assert found[PIZZA].tolist() == [0, 0, 0]
    assert renew_attribute_words.renew(detector, vocabulary) == 0
