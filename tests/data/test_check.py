"""The check finds each fault it promises to find, and nothing in a sound data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.data.check import CheckReport, check_dataset
from captioner.data.shapes import generate
from captioner.errors import DataError

KINDS = (
    "missing images",
    "unreadable images",
    "empty captions",
    "unusable captions",
    "duplicate ids",
    "split leaks",
)


class Folder:
    """A data set of small photographs that a test can spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self.entries: list[dict[str, Any]] = []
        for number, split in enumerate(["train"] * 6 + ["val", "val", "test"]):
            self.add(f"{number}.jpg", split)

    def add(self, filename: str, split: str, *captions: str, content: bytes | None = None) -> None:
        number = len(self.entries)
        noise = np.random.default_rng(number).integers(0, 255, (20, 30 + number, 3), dtype=np.uint8)
        if content is None:
            Image.fromarray(noise).save(self.images / filename)
        else:
            (self.images / filename).write_bytes(content)
        sentences = [
            {"raw": raw, "sentid": 2 * number + place}
            for place, raw in enumerate(captions or ("A dog runs.", "One dog."))
        ]
        entry = {"filename": filename, "split": split, "imgid": number, "sentences": sentences}
        self.entries.append(entry)

    def check(self) -> CheckReport:
        path = self.folder / "dataset_own.json"
        path.write_text(json.dumps({"images": self.entries}))
        return check_dataset(self.folder, show_progress=False)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def only(report: CheckReport, kind: str) -> str:
    """The one finding of a report that must have no other."""
    assert set(report.findings) == set(KINDS)
    (finding,) = report.findings[kind]
    assert [other for other in KINDS if report.findings[other]] == [kind]
    assert not report.ok
    assert f"{kind}: 1\n  {finding}\n" in str(report)
    return finding


def test_a_sound_data_set_has_no_findings(folder):
    report = folder.check()
    assert report.ok
    assert report.images == {"train": 6, "val": 2, "test": 1}
    assert report.captions == {"train": 12, "val": 4, "test": 2}
    assert (report.smallest, report.largest) == ((30, 20), (38, 20))
    assert report.total_bytes == sum(path.stat().st_size for path in folder.images.iterdir())
    assert json.loads(json.dumps(report.to_json()))["ok"] is True
    assert str(report).endswith("nothing is wrong")


def test_missing_image(folder):
    (folder.images / "2.jpg").unlink()
    assert only(folder.check(), "missing images").endswith("images/2.jpg")


@pytest.mark.parametrize("kept", [0, 10, 700])
def test_truncated_image_is_really_decoded_to_be_found(folder, kept):
    path = folder.images / "2.jpg"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in only(folder.check(), "unreadable images")


def test_empty_captions(folder):
    folder.entries[1]["sentences"][1]["raw"] = " . "
    assert only(folder.check(), "empty captions") == "1.jpg: caption 2 is ' . ', without words"


def test_image_without_captions(folder):
    folder.entries[1]["sentences"] = []
    assert only(folder.check(), "empty captions") == "1.jpg: it has no caption at all"


def test_duplicate_image_id(folder):
    folder.entries[1]["imgid"] = 0
    expected = "image id 0 is there 2 times: 0.jpg, 1.jpg"
    assert only(folder.check(), "duplicate ids") == expected


def test_duplicate_sentence_id(folder):
    folder.entries[3]["sentences"][0]["sentid"] = 1
    expected = "sentence id 1 is there 2 times: 0.jpg, 3.jpg"
    assert only(folder.check(), "duplicate ids") == expected


def test_one_file_twice_in_one_split(folder):
    folder.entries[1]["filename"] = "0.jpg"
    assert "0.jpg (id 0, train), 0.jpg (id 1, train)" in only(folder.check(), "duplicate ids")


def test_one_file_in_two_splits(folder):
    folder.entries[6]["filename"] = "0.jpg"
    report = folder.check()
    assert report.findings["split leaks"] == (
        "one picture in 2 splits: 0.jpg (train), 0.jpg (val)",
    )


@pytest.mark.parametrize("split", ["train", "restval"])
def test_one_content_in_two_splits(folder, split):
    folder.add("copy.jpg", split, content=(folder.images / "8.jpg").read_bytes())
    expected = f"one picture in 2 splits: 8.jpg (test), copy.jpg ({split})"
    assert only(folder.check(), "split leaks") == expected


def test_copies_within_training_are_a_note(folder):
    folder.add("copy.jpg", "restval", content=(folder.images / "0.jpg").read_bytes())
    report = folder.check()
    assert report.ok
    assert "the same picture 2 times: 0.jpg (train), copy.jpg (restval)" in report.notes


def test_coverage_is_by_training_words_that_are_frequent(folder):
    folder.entries[6]["sentences"] = [{"raw": "a dog sleeps"}]
    folder.entries[7]["sentences"] = [{"raw": "one zebra"}]
    folder.entries[8]["sentences"] = [{"raw": "sleeps"}]
    folder.entries[0]["sentences"].append({"raw": "sleeps sleeps sleeps sleeps"})
    report = folder.check()
    assert (report.training_words, report.frequent_words) == (5, 4)
    assert report.coverage == {"val": 3 / 5, "test": 0.0}
    assert "60.00% known words" in str(report)


def test_long_lists_are_cut_in_the_text_alone(folder):
    for number in range(30):
        folder.add(f"odd{number}.jpg", "train", content=b"no picture")
    report = folder.check()
    assert len(report.findings["unreadable images"]) == 30
    assert "  and 20 more" in str(report)


def test_progress_is_shown_when_asked_for(folder, capsys):
    folder.check()
    assert capsys.readouterr() == ("", "")
    check_dataset(folder.folder / "dataset_own.json")
    out, err = capsys.readouterr()
    assert (out, "9/9 images" in err) == ("", True)


def test_another_form_of_file_is_an_error(tmp_path):
    (tmp_path / "dataset_own.json").write_text("[]")
    with pytest.raises(DataError, match="not in Karpathy's form"):
        check_dataset(tmp_path)


def test_the_built_in_sample_is_sound(tmp_path):
    report = check_dataset(generate(tmp_path / "shapes", 0, (60, 8, 8)), show_progress=False)
    assert report.ok
    assert report.notes == ()


def test_flickr8k_is_sound(shared_data):
    report = check_dataset(shared_data / "data" / "flickr8k", show_progress=False)
    assert report.ok, str(report)
    assert (report.training_words, report.frequent_words) == (7373, 2537)
