"""Holding out: which images are taken, where others go, and what stays as it was."""

import json
from pathlib import Path

import pytest
from PIL import Image

from captioner.cli import main
from captioner.data.hold_out import hold_out
from captioner.data.karpathy import load_karpathy
from captioner.errors import DataError, OptionError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve training images, of which six have five captions, and two in val."""
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    entries = []
    for number in range(14):
        name = f"{number:02}.png"
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / "images" / name)
        captions = [{"raw": f"caption {n} of {number}"} for n in range(5 if number < 6 else 1)]
        split = "train" if number < 12 else "val"
        entries.append(
            {"filename": name, "cocoid": 100 + number, "split": split, "sentences": captions}
        )
    path = folder / "dataset_own.json"
    path.write_text(json.dumps({"dataset": "own", "images": entries}))
    return path


def names(path: Path, split: str) -> set[str]:
    return {image.filename for image in load_karpathy(path).split(split)}


def test_those_with_most_captions_are_held_out_and_the_rest_stays(data, tmp_path):
    made = hold_out(data, 4, tmp_path / "elsewhere" / "held_out.json", former="test")
    before, after = load_karpathy(data), load_karpathy(made.json_path)
    assert after.counts() == {"train": 8, "val": 4, "test": 2}
    assert all(len(image.captions) == 5 for image in after.split("val"))
    assert names(made.json_path, "test") == names(data, "val")
    for image, other in zip(before.images, after.images, strict=True):
        assert image.path.samefile(other.path)
        assert (image.image_id, image.tokens) == (other.image_id, other.tokens)


def test_the_choice_depends_on_names_and_seed_only(data, tmp_path):
    def chosen(seed: int) -> set[str]:
        return names(
            hold_out(data, 3, tmp_path / "out.json", split="test", seed=seed).json_path, "test"
        )

    first = chosen(0)
    content = json.loads(data.read_text())
    content["images"].reverse()
    data.write_text(json.dumps(content))
    assert chosen(0) == first
    assert len({frozenset(chosen(seed)) for seed in range(8)}) > 1


def test_images_that_were_in_the_split_stay_unless_told_otherwise(data, tmp_path):
    made = hold_out(data, 4, tmp_path)
    assert made.json_path == tmp_path / "dataset_own_held_out.json"
    assert made.counts() == {"train": 8, "val": 6, "test": 0}


def test_the_command_prints_the_counts(data, tmp_path, capsys):
    words = ["data", "hold-out", str(data.parent), "7", "--out", str(tmp_path / "x.json")]
    assert main([*words, "--as", "test"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/x.json: 5 train, 2 val, 7 test\n"


@pytest.mark.parametrize(
    ("count", "more", "message"),
    [
        (0, {}, "the number of images to hold out is 0; give at least 1"),
        (12, {}, "12 captioned training images, and 12 of them are to be held out; leave some"),
        (2, {"split": "train"}, "--as is 'train'; it is one of val, test"),
        (2, {"seed": -1}, "--seed is -1; it cannot be negative"),
        (2, {"former": "dev"}, "--former is 'dev'; it is one of train, val, test"),
    ],
)
def test_bad_requests_are_refused(data, tmp_path, count, more, message):
    with pytest.raises((OptionError, DataError), match=message):
        hold_out(data, count, tmp_path, **more)


def test_a_data_set_is_not_replaced_by_its_own_division(data):
    with pytest.raises(OptionError, match="is the data set itself; give another file with --out"):
        hold_out(data, 2, data)
