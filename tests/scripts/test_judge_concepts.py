"""Counting of concepts that captions name."""

import importlib.util
from pathlib import Path

import pytest

from captioner.attributes import Classifier, ClassifierAndInstances, InstanceDetector
from captioner.errors import OptionError

_PATH = Path(__file__).parents[2] / "scripts" / "judge_concepts.py"
_spec = importlib.util.spec_from_file_location("judge_concepts", _PATH)
judge_concepts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(judge_concepts)

FOUND = {
    "a.jpg": {"zebra": 0.9, "couch": 0.6, "bus": 0.7, "dog": 0.1},
    "b.jpg": {"zebra": 0.1, "couch": 0.0, "bus": 0.8, "dog": 0.2},
}
ENTRIES = [
    {
        "filename": "a.jpg",
        "caption": "a dog and two zebras on a couch",
        "references": ["Zebras!", "a sofa with a zebra"],
    },
    {"filename": "b.jpg", "caption": "a man by the sea", "references": ["a man", "a bus"]},
]


def test_concepts_are_counted_as_named_missed_and_hallucinated() -> None:
    found = judge_concepts.judge(ENTRIES, FOUND, 0.5)
    # Of the first, zebra and couch are rightly seen and named, the bus is seen wrongly and the dog
    # is in no reference; of the second, the bus is rightly seen and not named.
    assert found == judge_concepts.Judgement(
        images=2, seen=3, named=2, mentions=3, hallucinated=1, images_with_hallucination=1
    )
    assert "of 3 concepts confidently and rightly seen 66.7% named" in found.line()
    assert "of 3 concepts named 33.3% in no reference, in 50.0% of the captions" in found.line()


def test_the_classifier_is_found_in_a_detector_of_both() -> None:
    both = ClassifierAndInstances()
    assert judge_concepts.classifier_of(both) is both.classifier
    assert isinstance(judge_concepts.classifier_of(Classifier()), Classifier)
    for none in (None, InstanceDetector()):
        with pytest.raises(OptionError, match="holds no classifier"):
            judge_concepts.classifier_of(none)


def test_people_are_compared_where_the_references_agree() -> None:
    men, both = ["a man runs", "two boys run", "someone"], ["a man", "a man and a woman", "a guy"]
    entries = [
        {"caption": "a man", "references": men},
        {"caption": "a girl", "references": men},
        {"caption": "people", "references": men},
        {"caption": "a man and a woman", "references": men},
        {"caption": "a woman", "references": both},  # they do not agree
        {"caption": "a lady", "references": ["a woman", "one girl"]},
        {"caption": "a boy", "references": ["a woman", "someone"]},  # named once
    ]
    assert judge_concepts.whom_it_calls_what(entries) == {
        "men": {"the same": 1, "another": 2, "neither": 1},
        "women": {"the same": 1},
    }
