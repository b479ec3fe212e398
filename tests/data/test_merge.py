"""Merging: the written file holds the same images, splits and captions, and no id twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.cli import main
from captioner.data.check import check_dataset
from captioner.data.karpathy import CaptionedImage, load_karpathy, read_karpathy
from captioner.data.merge import merge
from captioner.data.open_dataset import open_datasets
from captioner.errors import OptionError


def make(folder: Path, name: str, splits: str, tint: int, *, key: str = "imgid") -> Path:
    """Write a data set with an image for each letter of `splits`: t(rain), v(al), r(estval)."""
    (folder / "images").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number, letter in enumerate(splits):
        Image.new("RGB", (4, 4), (tint, number, 0)).save(folder / "images" / f"{number}.png")
        split = {"t": "train", "v": "val", "r": "restval"}[letter]
        sentences = [
            {"raw": f"Picture {number} of {name}.", "tokens": ["picture", name], "sentid": number},
            {"raw": f"A {name}", "sentid": 100 + number},
        ]
        entry = {"filename": f"{number}.png", key: number, "split": split, "sentences": sentences}
        entries.append(entry)
    path = folder / f"dataset_{name}.json"
    path.write_text(json.dumps({"dataset": name, "images": entries}))
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [make(tmp_path / "a", "birds", "ttv", 9), make(tmp_path / "b", "boats", "vrt", 90)]


def seen(image: CaptionedImage) -> tuple[object, ...]:
    return image.captions, image.tokens, image.split, image.dataset, image.own_id


def test_the_file_holds_what_the_sets_hold(two, tmp_path, capsys):
    out = tmp_path / "both" / "dataset.json"
    out.parent.mkdir()
    assert main(["data", "merge", *map(str, two), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 3 train, 2 val, 0 test, 1 restval\n"
    assert main(["data", "check", str(out)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    found = load_karpathy(out)
    joint = open_datasets([str(path) for path in two], announce=lambda _: None)
    assert [seen(image) for image in found.images] == [seen(image) for image in joint.images]
    assert [image.image_id for image in found.images] == [0, 1, 2, 3, 4, 5]
    for image, other in zip(found.images, joint.images, strict=True):
        assert image.path.samefile(other.path)
    assert found.name == "birds+boats"


@pytest.mark.parametrize("is_absolute", [False, True])
def test_what_may_be_moved(two, tmp_path, is_absolute):
    out = merge(two, tmp_path / "m", is_absolute=is_absolute, name="Both").json_path
    assert out == tmp_path / "m" / "dataset_both.json"
    if is_absolute:
        moved = shutil.move(out, tmp_path / "dataset_moved.json")
    else:
        shutil.copytree(tmp_path, tmp_path.parent / "other", dirs_exist_ok=True)
        moved = tmp_path.parent / "other" / "m" / out.name
        shutil.rmtree(tmp_path / "a")
    assert all(image.path.is_file() for image in read_karpathy(moved).images)


def test_numbers_of_coco_stay_unless_two_images_share_one(tmp_path):
    first = make(tmp_path / "a", "birds", "tv", 9, key="cocoid")
    second = make(tmp_path / "b", "boats", "tv", 90, key="cocoid")
    other = make(tmp_path / "c", "cats", "tv", 190)
    found = merge([first, other], tmp_path / "x.json")
    assert [image.cocoid for image in found.images] == [0, 1, None, None]
    assert [image.image_id for image in found.images] == [0, 1, 2, 3]
    found = merge([first, second], tmp_path / "y.json")
    assert [image.image_id for image in found.images] == [0, 1, 2, 3]
    assert check_dataset(tmp_path / "y.json", show_progress=False).ok


def test_each_set_has_its_folder_of_images(two, tmp_path):
    moved = (tmp_path / "b" / "images").rename(tmp_path / "elsewhere")
    found = merge(two, tmp_path / "x.json", images=["", str(moved)])
    assert all(image.path.is_file() for image in found.images)
    with pytest.raises(OptionError, match="--images names 1 folders for 2 data sets"):
        merge(two, tmp_path / "x.json", images=["a"])


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("out", ["out", "a/link/out", "plain"])
def test_images_are_found_through_folders_that_are_links(tmp_path, is_absolute, out):
    data = make(tmp_path / "far" / "deep" / "set", "birds", "tv", 9)
    stored = json.loads(data.read_text())
    (data.parent / "images").rename(tmp_path / "far" / "deep" / "photos")
    for entry in stored["images"]:
        entry["filename"] = f"../photos/{entry['filename']}"
    data.write_text(json.dumps(stored))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(data.parent)
    (tmp_path / out).mkdir(parents=True)
    written = tmp_path / out / "dataset.json"
    through_link = tmp_path / "a" / "link" / data.name
    images = [str(through_link.parent)]
    merged = merge([through_link], written, images=images, is_absolute=is_absolute)
    assert [image.path.resolve() for image in merged.images] == [
        tmp_path / "far" / "deep" / "photos" / f"{number}.png" for number in range(2)
    ]
    assert all(image.path.is_file() for image in load_karpathy(written).images)


def test_a_set_is_not_named_twice_nor_replaced(two):
    with pytest.raises(OptionError, match="is named twice; name each data set once"):
        merge([two[0], two[0].parent], two[0].parent / "x.json")
    with pytest.raises(OptionError, match="is one of the data sets; give another file with --out"):
        merge(two, two[1])
