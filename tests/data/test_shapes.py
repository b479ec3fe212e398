"""The built-in sample: the same bytes from the same seed, captions that are true, no leaks."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.data import shapes
from captioner.data.karpathy import CaptionDataset, load_karpathy
from captioner.data.shapes import ensure, generate, named_rightly
from captioner.data.shapes_scenes import COLOURS, KINDS, describe, imagine_scenes
from captioner.errors import DataError, OptionError
from captioner.vocabulary import Vocabulary, tokenize

SIZES = (150, 20, 30)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> CaptionDataset:
    return load_karpathy(generate(tmp_path_factory.mktemp("shapes"), 7, SIZES))


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SIZES", (4, 2, 2))


def all_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for folder, seed in ((first, 3), (second, 3), (other, 4)):
        generate(folder, seed, (6, 2, 2))
    assert len(all_bytes(first)) == 11
    assert all_bytes(first) == all_bytes(second)
    assert all_bytes(first) != all_bytes(other)


def test_it_is_a_karpathy_data_set_with_five_different_captions(sample):
    assert sample.name == "shapes"
    assert sample.counts() == dict(zip(("train", "val", "test"), SIZES, strict=True))
    assert all(len(set(image.captions)) == 5 for image in sample.images)
    ids = [number for image in sample.images for number in image.sentence_ids]
    assert ids == list(range(5 * sum(SIZES)))
    with Image.open(sample.images[0].path) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (112, 112), "RGB")


def test_no_scene_is_in_two_splits():
    scenes = imagine_scenes(3600, np.random.default_rng(0))
    seen = {
        (scene.layout, *((shape.colour, shape.kind, shape.size) for shape in scene.shapes))
        for scene in scenes
    }
    assert len(seen) == 3600


def test_every_caption_names_its_scene_and_no_other(sample):
    for image, other in itertools.pairwise(sample.images):
        names = Counter((shape["colour"], shape["kind"]) for shape in image.extra["scene"])
        different = names != Counter((s["colour"], s["kind"]) for s in other.extra["scene"])
        for tokens in image.tokens:
            assert named_rightly(tokens, image.extra["scene"])
            assert named_rightly(tokens, other.extra["scene"]) != different


SHAPE = re.compile(rf"\b(an?) (?:(small|large) )?({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")
GROUP = r"(\d)(?: and (\d)(?! (?:on|at|is)))?"
RELATION = re.compile(
    rf"{GROUP}(?: is)?(?: to the)? (left of|right of|above|over|below|under|next to) {GROUP}"
)
WHERE = r"((?:in|on|at) the (?:top |bottom )?(?:left|right|top|bottom|middle))(?: corner)?"
PLACE = re.compile(rf"(\d) {WHERE}|{WHERE} (?:there )?is (\d)")
HOLDS = {
    "left of": lambda one, other: other["x"] - one["x"] > 0.15,
    "right of": lambda one, other: one["x"] - other["x"] > 0.15,
    "above": lambda one, other: other["y"] - one["y"] > 0.15,
    "below": lambda one, other: one["y"] - other["y"] > 0.15,
    "next to": lambda one, other: abs(one["x"] - other["x"]) > 0.15,
}
HOLDS |= {"over": HOLDS["above"], "under": HOLDS["below"]}


def claims(caption: str, scene: list[dict]) -> Iterator[tuple[str, bool]]:
    """Yield each thing that a caption says of size and place, and whether it is true."""

    def number(match: re.Match[str]) -> str:
        _, size, colour, kind = match.groups()
        (found,) = (n for n, s in enumerate(scene) if (s["colour"], s["kind"]) == (colour, kind))
        sizes.append((size, size in (None, scene[found]["size"])))
        return str(found)

    sizes: list[tuple[str, bool]] = []
    text = SHAPE.sub(number, caption.lower().rstrip("."))
    yield from ((size, is_true) for size, is_true in sizes if size)
    for match in RELATION.finditer(text):
        *_, relation, _, _ = groups = match.groups()
        for one, other in itertools.product(groups[:2], groups[3:]):
            if one and other:
                yield text, HOLDS[relation](scene[int(one)], scene[int(other)])
    for match in PLACE.finditer(text):
        after, place, place_before, before = match.groups()
        shape, words = scene[int(after or before)], (place or place_before).split()
        ends = {"left": shape["x"], "right": 1 - shape["x"], "top": shape["y"]}
        ends["bottom"] = 1 - shape["y"]
        yield text, all(ends[word] < 0.35 for word in words if word in ends)
        if "middle" in words:
            yield text, all(abs(shape[axis] - 0.5) < 0.1 for axis in "xy")


def test_what_captions_say_of_size_and_place_is_true(sample):
    said = [
        (image.filename, *claim)
        for image in sample.images
        for caption in image.captions
        for claim in claims(caption, image.extra["scene"])
    ]
    assert [claim for claim in said if not claim[-1]] == []
    assert len(said) > 5 * len(sample.images)  # the parser above does find them


@pytest.mark.parametrize(
    ("caption", "is_true"),
    [
        ("A red circle to the left of a blue star.", True),
        ("A red circle to the right of a blue star.", False),
        ("A blue star is left of a red circle.", False),
        ("A large red circle above a blue star.", False),
        ("A small red circle on the left and a blue star on the right.", True),
        ("A red circle on the right and a blue star on the left.", False),
    ],
)
def test_the_parser_of_claims_tells_true_from_false(caption, is_true):
    scene = [
        {"colour": "red", "kind": "circle", "size": "small", "x": 0.27, "y": 0.5},
        {"colour": "blue", "kind": "star", "size": "large", "x": 0.73, "y": 0.5},
    ]
    verdicts = [verdict for _, verdict in claims(caption, scene)]
    assert verdicts
    assert all(verdicts) == is_true


# Points inside and outside of each kind in its radius, y downwards, right at any small angle.
INSIDE = {
    "circle": [(0, 0), (0.75, 0)],
    "square": [(0, 0), (0.6, 0.6), (-0.6, 0.6)],
    "triangle": [(0, 0.1), (0.4, 0.45), (-0.4, 0.45)],
    "star": [(0, 0), (0, -0.6)],
}
OUTSIDE = {
    "circle": [(0.85, 0.85)],
    "square": [(1.3, 0)],
    "triangle": [(0.65, -0.5), (-0.65, -0.5)],
    "star": [(0, 0.85), (0.8, 0.1)],
}


def test_pictures_show_their_scene(sample):
    for image in sample.images[:80]:
        with Image.open(image.path) as picture:
            pixels = np.asarray(picture, dtype=int)
        for shape in image.extra["scene"]:
            for points, is_inside in ((INSIDE, True), (OUTSIDE, False)):
                for x, y in points[shape["kind"]]:
                    column = int((shape["x"] + x * shape["radius"]) * 112)
                    row = int((shape["y"] + y * shape["radius"]) * 112)
                    distance = np.abs(pixels[row, column] - COLOURS[shape["colour"]]).max()
                    assert (distance < 45) == is_inside, (image.filename, shape, x, y, distance)


def test_the_vocabulary_is_small_and_every_word_is_frequent():
    generator = np.random.default_rng(0)
    captions = [
        tokenize(caption)
        for scene in imagine_scenes(1000, generator)
        for caption in describe(scene, generator)
    ]
    assert Vocabulary.build(captions, 5) == Vocabulary.build(captions, 1)
    assert 30 < len(Vocabulary.build(captions, 1)) < 60
    assert max(map(len, captions)) <= 20


PAIR = [{"colour": "red", "kind": "circle"}, {"colour": "blue", "kind": "star"}]


@pytest.mark.parametrize(
    ("caption", "is_right"),
    [
        ("a red circle left of a blue star", True),
        ("a large blue star and a small red circle", True),
        ("red circle blue star", True),
        ("a red circle", False),
        ("a red circle left of a red circle", False),
        ("a red star left of a blue circle", False),
        ("a red circle left of a blue star and a green square", False),
        ("a red circle left of a blue star and a red circle", False),
        ("a red circle left of a blue star and a square", False),
        ("a red circle left of a blue star on green", False),
        ("a red red circle left of a blue star", False),
        ("a red small circle left of a blue star", False),
        ("two red circles left of a blue star", False),
        ("a red circle left of a blue star and two squares", False),
        ("a circle left of a star", False),
        ("", False),
    ],
)
def test_named_rightly(caption, is_right):
    assert named_rightly(caption.split(), PAIR) == is_right


def test_named_rightly_wants_two_of_a_kind_named_twice():
    scene = [{"colour": "red", "kind": "circle"}] * 2
    assert named_rightly(["a", "red", "circle", "above", "a", "red", "circle"], scene)
    assert not named_rightly(["a", "red", "circle"], scene)


@pytest.mark.usefixtures("small_sizes")
def test_it_is_generated_once_into_the_cache_and_repaired(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines: list[str] = []
    path = ensure(announce=lines.append)
    assert path.is_relative_to(tmp_path / "captioner" / "data")
    whole = all_bytes(path.parent)
    assert ensure(announce=lines.append) == path
    assert len(lines) == 1
    victim = next((path.parent / "images").iterdir())
    for harm in (victim.unlink, lambda: victim.write_bytes(b"")):
        harm()
        ensure(announce=lines.append)
        assert all_bytes(path.parent) == whole
    assert len(lines) == 3


ENSURE = """
import sys
from captioner.data import shapes
shapes.SIZES = (int(sys.argv[1]), 2, 2)
shapes.ensure()
"""


def test_a_kill_or_two_at_once_leave_no_half_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shapes, "SIZES", (200, 2, 2))

    def start(size: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", ENSURE, str(size)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )

    folder = tmp_path / "captioner" / "data"
    with start(3000) as killed:
        while not list(folder.glob(".*/images/*.jpg")):
            assert killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert not list(folder.glob("shapes-*"))
    with start(200) as first, start(200) as second:
        pass
    assert (first.returncode, second.returncode) == (0, 0)
    (left,) = folder.glob("shapes-*")
    generate(tmp_path / "expected", 0, (200, 2, 2))
    assert all_bytes(left) == all_bytes(tmp_path / "expected")


def test_other_peoples_files_are_not_lost(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(DataError, match="holds other files"):
        generate(tmp_path, 0, (1, 1, 1))
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(OptionError, match=r"sizes \(-1, 1, 1\) and seed 0"):
        generate(tmp_path / "new", 0, (-1, 1, 1))
