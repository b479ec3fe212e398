"""Attribute detectors of a new decoder, made ready before it is trained."""

from collections.abc import Callable, Sequence
from typing import Any

from captioner.attributes import (
    AttributeDetector,
    Classifier,
    ClassifierAndInstances,
    InstanceDetector,
)
from captioner.attributes.imagenet import CLASSES, words_of_classes
from captioner.data.karpathy import CaptionedImage
from captioner.encoder.interface import Encoder
from captioner.errors import OptionError
from captioner.vocabulary import Vocabulary
from training import instance_learning
from training.feature_sources import ImageSource

INSTANCE_WORDS = 500
INSTANCE_EPOCHS = 10


def make_ready(
    detector: AttributeDetector,
    count: int | None,
    *,
    encoder: Encoder,
    vocabulary: Vocabulary,
    images: Sequence[Sequence[CaptionedImage]],
    sources: Sequence[ImageSource],
    seed: int,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Give a detector its words and weights, and return what the reader should know of it.

    `images` and `sources` are those of training and of validation; `count` is how many attributes
    the decoder is to read, and None stands for all.

    Raises:
        OptionError: the encoder has no classifier of ImageNet, or there are too few words.
    """
    facts: dict[str, Any] = {}
    if isinstance(detector, ClassifierAndInstances):
        _take_classifier(detector.classifier, encoder, vocabulary)
    if isinstance(detector, Classifier):
        _take_classifier(detector, encoder, vocabulary)
    instances = getattr(detector, "instances", detector)
    if isinstance(instances, InstanceDetector):
        words = instance_learning.attribute_words(images[0], vocabulary, INSTANCE_WORDS)
        train, val = (
            instance_learning.seen(of_split, source, words)
            for of_split, source in zip(images, sources, strict=True)
        )
        facts["attributes_map_val"] = instance_learning.fit(
            instances,
            words,
            train,
            val,
            vocabulary,
            epochs=INSTANCE_EPOCHS,
            seed=seed,
            announce=announce,
        )
    if isinstance(detector, ClassifierAndInstances):
        detector.join()
    known = facts["attribute_words"] = detector.num_attributes
    if count is not None and count > known:
        raise OptionError(
            f"--attributes is {count} and the detector knows {known} words; give a smaller number"
        )
    announce(f"attributes: {known} words of the vocabulary can be detected")
    return facts


def _take_classifier(detector: Classifier, encoder: Encoder, vocabulary: Vocabulary) -> None:
    found = encoder.classifier()
    if found is None or len(found[0]) != CLASSES:
        raise OptionError(
            f"--attribute-detector classifier needs an encoder with a classifier of ImageNet's "
            f"{CLASSES:,} classes, and the weights of {encoder.config.name} have none; give "
            "--attribute-detector mil or --attributes 0"
        )
    words = words_of_classes(vocabulary)
    detector.take(
        *found, [None if word is None else vocabulary.encode([word])[0] for word in words]
    )
