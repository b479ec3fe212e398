"""Attributes: words for what an image shows, found before a caption is written.

A detector maps the grid of features to the probability of each of its words, which are words of
the caption vocabulary. Decoders with `--attributes N` attend to the N most probable ones.
"""

from captioner.attributes.detector import (
    DETECTORS,
    AttributeDetector,
    Classifier,
    ClassifierAndInstances,
    InstanceDetector,
)

__all__ = [
    "DETECTORS",
    "AttributeDetector",
    "Classifier",
    "ClassifierAndInstances",
    "InstanceDetector",
]
