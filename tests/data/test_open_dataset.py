"""What `--data` may name, and what is said where it is missing."""

import json
import re
from pathlib import Path

import pytest

from captioner.data import open_dataset as module
from captioner.data.open_dataset import find_json, open_dataset
from captioner.errors import DataError, OptionError


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder and a repository without COCO."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "repository")
    return here


@pytest.fixture
def small_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in sample is generated once for its own tests; here a few images do."""

    json_path = write(tmp_path / "sample", "dataset_shapes.json")
    monkeypatch.setattr(module, "ensure", lambda **_: json_path)


def write(folder: Path, filename: str, *, split: str = "train", images: str = "images") -> Path:
    (folder / images).mkdir(parents=True)
    (folder / images / "a.jpg").touch()
    sentences = [{"raw": "A dog."}, {"raw": " "}]
    entry = {"filename": "a.jpg", "split": split, "sentences": sentences}
    (folder / filename).write_text(json.dumps({"images": [entry]}))
    return folder / filename


@pytest.mark.usefixtures("small_sample")
def test_without_a_word_and_without_coco_the_sample_is_announced_loudly(lines):
    assert open_dataset(None, announce=lines.append).name == "shapes"
    (loud,) = (line for line in lines if "shapes" in line and "***" in line)
    assert "python scripts/download_coco.py" in loud
    assert "\n" not in loud


@pytest.mark.parametrize("root", ["here", "repository"])
@pytest.mark.parametrize("data", [None, "coco"])
def test_coco_is_found_here_or_in_the_repository(tmp_path, lines, root, data):
    write(tmp_path / root / "data" / "coco", "dataset_coco.json")
    assert open_dataset(data, announce=lines.append).name == "coco"
    assert not any("***" in line for line in lines)


def test_missing_coco_is_an_error_with_the_command(lines):
    with pytest.raises(DataError, match=r"no COCO in data/coco.*python scripts/download_coco\.py"):
        open_dataset("coco", announce=lines.append)


def test_coco_whose_images_are_not_there_yet_is_an_error_with_the_command(elsewhere, lines):
    path = write(elsewhere / "data" / "coco", "dataset_coco.json")
    (path.parent / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"not in data/coco.*--images.*download_coco\.py"):
        open_dataset(None, announce=lines.append)


def test_a_folder_with_one_dataset_and_the_file_itself_are_the_same(tmp_path, lines):
    path = write(tmp_path / "mine", "dataset_mine.json")
    (path.parent / "other.json").write_text("{}")
    by_folder = open_dataset(str(path.parent), announce=lines.append)
    assert by_folder == open_dataset(str(path), announce=lines.append)
    assert by_folder.name == "mine"


def test_counts_and_empty_captions_are_announced(tmp_path, lines):
    open_dataset(str(write(tmp_path / "mine", "dataset_mine.json")), announce=lines.append)
    assert len(lines) == 1
    assert "mine: images 1 train, 0 val, 0 test; 1 captions, 1 empty captions left out" in lines[0]


def test_images_folder_and_restval_are_passed_on(tmp_path, lines):
    path = write(tmp_path / "mine", "dataset_mine.json", split="restval", images="photographs")
    with pytest.raises(DataError, match=r"name their folder with --images$"):
        open_dataset(str(path), announce=lines.append)
    folder = tmp_path / "mine" / "photographs"
    assert open_dataset(str(path), images=folder, announce=lines.append).counts()["train"] == 1
    with pytest.raises(DataError, match="no image with a caption"):
        open_dataset(str(path), images=folder, restval=False, announce=lines.append)


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ([], "", "holds no dataset*.json; name the JSON itself"),
        (["dataset_a.json", "dataset_b.json"], "", "holds dataset_a.json, dataset_b.json; name"),
        ([], "gone", "there is no data set"),
        (["captions.csv"], "captions.csv", "`captioner data convert`"),
    ],
)
def test_no_data_set_is_an_error_with_the_remedy(tmp_path, files, name, message):
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    with pytest.raises(DataError, match=re.escape(message)):
        find_json(folder / name)


@pytest.mark.parametrize("data", [None, "shapes"])
def test_images_do_not_go_with_the_sample(tmp_path, lines, data):
    with pytest.raises(OptionError, match="--images does not go with the built-in sample"):
        open_dataset(data, images=tmp_path, announce=lines.append)
