"""Words for the attribute detectors of decoders under test, which are empty when they are built."""

import torch

from captioner.attributes import Classifier, InstanceDetector
from captioner.decoders import Decoder
from captioner.vocabulary import SPECIAL_TOKENS


def give_attributes(decoder: Decoder, *, words: int = 12, seed: int = 0) -> Decoder:
    """Return the decoder; its detector, if it has one, knows words by random weights.

    In a small vocabulary some words are detected by several of the weights.
    """
    detector = decoder.attribute_detector
    if detector is not None:
        assert isinstance(detector, Classifier | InstanceDetector)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(words, decoder.feature_size, generator=generator)
        first, last = len(SPECIAL_TOKENS), decoder.vocabulary_size
        ids = [first + number % (last - first) for number in range(words)]
        detector.take(weight, torch.full((words,), -2.0), ids)
    return decoder
