"""Attribute detectors of a new decoder, made ready before it is trained."""

from captioner.attributes import AttributeDetector, Classifier, ClassifierAndInstances
from captioner.attributes.imagenet import CLASSES, words_of_classes
from captioner.encoder.interface import Encoder
from captioner.errors import OptionError
from captioner.vocabulary import Vocabulary


def make_ready(detector: AttributeDetector, encoder: Encoder, vocabulary: Vocabulary) -> None:
    """Give a detector its words and weights.

    Raises:
        OptionError: the encoder has no classifier of ImageNet, or no class has a known word.
    """
    if isinstance(detector, Classifier):
        _take_classifier(detector, encoder, vocabulary)


def _take_classifier(detector: Classifier, encoder: Encoder, vocabulary: Vocabulary) -> None:
    found = encoder.classifier()
    if found is None or len(found[0]) != CLASSES:
        raise OptionError(
            f"--attribute-detector classifier needs an encoder with a classifier of ImageNet's "
            f"{CLASSES:,} classes, and the weights of {encoder.config.name} have none; give "
            "--attribute-detector mil or --attributes 0"
        )
    words = words_of_classes(vocabulary)
    ids = [None if word is None else vocabulary.encode([word])[0] for word in words]
    if not any(ids):
        raise OptionError(
            "no class of ImageNet has a word in the vocabulary of these captions; give "
            "--attributes 0"
        )
    detector.take(*found, ids)
