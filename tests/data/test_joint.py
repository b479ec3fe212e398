"""Several data sets as one: splits, names, ids, folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.data.joint import JointDataset
from captioner.data.karpathy import load_karpathy
from captioner.data.open_dataset import open_datasets
from captioner.errors import DataError, OptionError


def make(folder: Path, name: str, *images: tuple[str, str], **more: Any) -> Path:
    """Write a data set with images of these names and splits; return its JSON."""
    folder.mkdir(parents=True)
    entries = []
    for number, (filename, split) in enumerate(images):
        (folder / filename).touch()
        sentences = [{"raw": f"{filename} of {name}"}]
        entries.append(
            {"filename": filename, "split": split, "sentences": sentences, "imgid": number, **more}
        )
    path = folder / "dataset.json"
    path.write_text(json.dumps({"dataset": name, "images": entries}))
    return path


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return make(tmp_path / "a", "birds", ("1.jpg", "train"), ("2.jpg", "val"), ("3.jpg", "restval"))


@pytest.fixture
def boats(tmp_path: Path) -> Path:
    return make(tmp_path / "b", "boats", ("1.jpg", "val"), ("2.jpg", "train"))


def opened(*paths: Path, **options: Any) -> JointDataset:
    return open_datasets([str(path) for path in paths], announce=lambda _: None, **options)


def test_splits_are_kept_and_ids_and_files_of_two_sets_do_not_meet(birds, boats):
    joint = opened(birds, boats)
    assert (joint.name, joint.names) == ("birds+boats", ("birds", "boats"))
    assert joint.counts() == {"train": 3, "val": 2, "test": 0}
    assert [image.image_id for image in joint.images] == [0, 1, 2, 3, 4]
    assert [image.path for image in joint.split("val")] == [
        birds.parent / "2.jpg",
        boats.parent / "1.jpg",
    ]
    assert [(image.dataset, image.own_id) for image in joint.split("val")] == [
        ("birds", 1),
        ("boats", 0),
    ]
    assert [len(images) for images in joint.split_by_set("train")] == [2, 1]
    assert opened(birds, boats, restval=False).counts()["train"] == 2


def test_one_alone_is_as_ever(boats):
    joint, alone = opened(boats), load_karpathy(boats)
    assert joint.images == alone.images
    assert joint.name == "boats"
    assert joint.origin() == {
        "name": "boats",
        "json": str(boats),
        "images": str(boats.parent),
        "counts": {"train": 1, "val": 1, "test": 0},
    }


def test_two_sets_of_one_name_are_told_apart(tmp_path, boats):
    other = make(tmp_path / "c", "boats", ("9.jpg", "train"))
    joint = opened(boats, other)
    assert joint.names == ("boats", "boats-2")
    assert [one["name"] for one in joint.origin()["sets"]] == ["boats", "boats-2"]


def test_each_set_has_its_folder_of_images(tmp_path, birds, boats):
    moved = boats.parent.rename(tmp_path / "moved")
    boats.parent.mkdir()
    (moved / boats.name).rename(boats)
    joint = opened(birds, boats, images=["", str(moved)])
    assert [image.path.is_file() for image in joint.images] == [True] * 5


def test_what_does_not_fit_is_refused(birds, boats):
    with pytest.raises(OptionError, match="--images names 1 folders for 2 data sets; give one for"):
        opened(birds, boats, images=["x"])
    with pytest.raises(OptionError, match=r"a/dataset\.json twice; name it once, and let --data"):
        opened(birds, boats, birds.parent)
    with pytest.raises(DataError, match="there is no split 'dev'"):
        opened(birds, boats).split("dev")
