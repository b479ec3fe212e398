"""The model in the box: small enough, sound, and right about most of the example photographs."""

import os
from pathlib import Path

import pytest

import captioner
from captioner.checkpoint_folders import SHIPPED, shipped_model
from captioner.hashed_folder import read_hashes, verified

EXAMPLES = Path(os.environ.get("CAPTIONER_SHARED", "/nowhere")) / "data" / "examples"
RIGHT = {  # a word for the main thing of each
    "bear": "bear",
    "birds": "bird",
    "bus": "bus",
    "cat": "cat",
    "coffee": "coffee",
    "dog": "dog",
    "kitchen": "kitchen",
    "pizza": "pizza",
    "riders_on_beach": "horses",
    "seagull": "bird",
    "stop_sign": "sign",
    "street": "street",
    "tennis": "tennis",
    "train": "train",
    "zebras": "zebra",
}


def test_it_is_small_and_whole() -> None:
    assert shipped_model() == SHIPPED
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 30_000_000
    hashes = read_hashes(SHIPPED, ())
    for name in hashes:
        verified(SHIPPED, hashes, name)


def test_it_says_how_far_to_trust_a_caption() -> None:
    curve = captioner.load(threads=1).confidence_curve
    assert curve is not None, "captioner calibrate captioner/model --data DATA fits one"
    likely, unlikely = curve.confidence([-0.3] * 10), curve.confidence([-3.0] * 10)
    assert 0 < unlikely < likely < 1


def test_it_tells_nothing_of_the_machine_that_trained_it() -> None:
    assert b"/work" not in (SHIPPED / "deployable.json").read_bytes()


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the example photographs are not here")
def test_most_examples_are_named_rightly() -> None:
    paths = [EXAMPLES / f"{name}.jpg" for name in RIGHT]
    captions = captioner.load(threads=1).caption(paths)
    named = [
        not {word, f"{word}s"}.isdisjoint(one.tokens)
        for word, one in zip(RIGHT.values(), captions, strict=True)
    ]
    assert sum(named) >= len(RIGHT) - 1  # a near tie may fall out otherwise on other machines
