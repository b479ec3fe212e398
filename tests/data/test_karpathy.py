"""Karpathy's JSON: folders, splits, ids, tokens, and an error for every other form."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from captioner.data.check import check_dataset
from captioner.data.karpathy import load_karpathy, read_karpathy
from captioner.errors import DataError


def entry(filename: str, split: str = "train", *captions: str, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": caption} for caption in captions or ("A dog runs.",)]
    return {"filename": filename, "split": split, "sentences": sentences, **more}


def write(folder: Path, *entries: Any, filename: str = "dataset_own.json", **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / filename
    path.write_text(json.dumps({"images": list(entries), **more}), encoding="utf-8")
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_captions_tokens_ids_and_extra_keys_are_kept(tmp_path):
    first = entry("a.jpg", "train", imgid=3, scene=[{"kind": "star"}])
    first["sentences"] = [
        {"raw": "A dog-like cat.", "tokens": ["a", "doglike", "cat"], "sentid": 8},
        {"raw": "Two T-shirts!", "sentid": 9},
        {"tokens": ["only", "tokens"], "sentid": 10},
    ]
    dataset = load_karpathy(write(tmp_path, first, entry("b.jpg", "val", imgid=5)))
    image = dataset.images[0]
    assert image.tokens == (("a", "doglike", "cat"), ("two", "t", "shirts"), ("only", "tokens"))
    assert image.captions == ("A dog-like cat.", "Two T-shirts!", "only tokens")
    assert (image.image_id, image.sentence_ids, image.split) == (3, (8, 9, 10), "train")
    assert image.extra == {"scene": [{"kind": "star"}]}
    assert dataset.counts() == {"train": 1, "val": 1, "test": 0}
    assert [image.filename for image in dataset.split("val")] == ["b.jpg"]
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert len({*dataset.images}) == 2


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        ([{"cocoid": 42, "imgid": 0}, {"cocoid": 43, "imgid": 1}], [42, 43]),
        ([{"cocoid": 1, "imgid": 0}, {"imgid": 1}], [0, 1]),  # never a mixture, which collides
        ([{"imgid": 7}, {}], [0, 1]),
        ([{"imgid": "7"}, {"imgid": 8.0}], [7, 8]),
    ],
)
def test_image_id_is_cocoid_else_imgid_else_position(tmp_path, keys, ids):
    path = write(tmp_path, *(entry(f"{n}.jpg", **more) for n, more in enumerate(keys)))
    assert [image.image_id for image in load_karpathy(path).images] == ids


def test_restval_joins_train_unless_told_otherwise(tmp_path):
    path = write(tmp_path, entry("a.jpg"), entry("b.jpg", "restval"), entry("c.jpg", "test"))
    assert load_karpathy(path).counts() == {"train": 2, "val": 0, "test": 1}
    assert load_karpathy(path, restval=False).counts() == {"train": 1, "val": 0, "test": 1}
    assert read_karpathy(path).counts() == {"train": 1, "val": 0, "test": 1, "restval": 1}


@pytest.mark.parametrize("folder", ["images", "Images", "Flicker8k_Dataset", "flickr30k-images"])
def test_images_are_found_in_the_usual_folders(tmp_path, folder):
    touch(tmp_path / folder / "a.jpg")
    dataset = load_karpathy(write(tmp_path, entry("a.jpg")))
    assert dataset.images[0].path.is_file()
    assert dataset.images_dir.samefile(tmp_path / folder)


def test_an_empty_images_folder_does_not_hide_the_images_beside_the_file(tmp_path):
    (tmp_path / "images").mkdir()
    touch(tmp_path / "a.jpg")
    assert load_karpathy(write(tmp_path, entry("a.jpg"))).images_dir == tmp_path


def test_coco_folders_are_joined_where_they_exist(tmp_path):
    entries = [
        entry("a.jpg", filepath="train2014", cocoid=1),
        entry("b.jpg", "val", filepath="val2014", cocoid=2),
    ]
    coco = tmp_path / "coco"
    touch(coco / "train2014" / "a.jpg", coco / "val2014" / "b.jpg")
    for dataset in (
        load_karpathy(write(coco, *entries)),
        load_karpathy(write(tmp_path / "elsewhere", *entries), coco),
    ):
        assert all(image.path.is_file() for image in dataset.images)
    flat = tmp_path / "flat"
    touch(flat / "a.jpg", flat / "b.jpg")
    dataset = load_karpathy(write(tmp_path / "elsewhere", *entries), flat)
    assert [image.path for image in dataset.images] == [flat / "a.jpg", flat / "b.jpg"]


def test_given_folder_wins_and_must_exist(tmp_path):
    touch(tmp_path / "images" / "a.jpg", tmp_path / "mine" / "a.jpg")
    path = write(tmp_path, entry("a.jpg"))
    assert load_karpathy(path, tmp_path / "mine").images[0].path == tmp_path / "mine" / "a.jpg"
    with pytest.raises(DataError, match=r"folder of images .*gone does not exist; check --images"):
        load_karpathy(path, tmp_path / "gone")


def test_empty_captions_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, entry("a.jpg", "train", "A dog.", " ", "..."), entry("b.jpg", "val", ""))
    dataset = load_karpathy(path)
    assert [image.tokens for image in dataset.images] == [(("a", "dog"),)]
    assert dataset.left_out == 3
    assert [len(image.captions) for image in read_karpathy(path).images] == [3, 1]


@pytest.mark.parametrize(
    ("content", "filename", "name"),
    [
        ({"dataset": "Flickr8k"}, "dataset_flickr8k.json", "flickr8k"),
        ({}, "dataset_coco.json", "coco"),
        ({}, "holidays.json", "holidays"),
    ],
)
def test_name_comes_from_the_file(tmp_path, content, filename, name):
    assert load_karpathy(write(tmp_path, entry("a.jpg"), filename=filename, **content)).name == name


def test_equal_words_are_one_object(tmp_path):
    dataset = load_karpathy(write(tmp_path, entry("a.jpg", "train", "zebras run", "zebras rest")))
    (first, _), (second, _) = dataset.images[0].tokens
    assert first is second


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "image 1 is int, an object is needed"),
        ({"split": "train"}, 'image 1 has no "filename"'),
        (entry("b.jpg", "dev"), "image 1 (b.jpg) has split 'dev'; it is one of train, val, test"),
        ({"filename": "b.jpg", "split": "val"}, '(b.jpg) has no list "sentences"'),
        (entry("b.jpg", imgid="x"), "(b.jpg) has \"imgid\" 'x'; an id is a whole number"),
        (entry("b.jpg", filepath=4), '(b.jpg) has "filepath" 4'),
        (entry("b.jpg", sentences=["a"]), 'sentence with neither "raw" nor "tokens"'),
        (entry("b.jpg", sentences=[{"raw": 3}]), 'sentence whose "raw" is 3'),
        (entry("b.jpg", sentences=[{"tokens": "a b"}]), '"tokens" are no list of words'),
        (entry("b.jpg", sentences=[{"raw": "a", "sentid": None}]), '"sentid" None'),
    ],
)
def test_a_malformed_entry_is_named(tmp_path, image, message):
    path = write(tmp_path, entry("a.jpg"), image)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_karpathy(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "`captioner data convert` makes one"),
        ('{"images": []}', "holds no image"),
        ('{"images": [{"filename": "a.jpg", "split": "val", "sentences": []}]}', "no image with a"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, content, message):
    path = tmp_path / "dataset_own.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_karpathy(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_unknown_split_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"no file .*gone\.json"):
        load_karpathy(tmp_path / "gone.json")
    with pytest.raises(DataError, match="no split 'dev'; it is one of train, val, test"):
        load_karpathy(write(tmp_path, entry("a.jpg"))).split("dev")


def test_two_images_with_one_id_are_refused(tmp_path):
    path = write(tmp_path, entry("a.jpg", imgid=1), entry("b.jpg", imgid=1))
    with pytest.raises(DataError, match=r"a\.jpg and b\.jpg have the same id 1; `captioner data"):
        load_karpathy(path)


HALF = "\ud83d"  # of an emoji: valid in JSON, but nothing that UTF-8 can hold


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        ({"tokens": ["ice cream"]}, "caption 2 has the token 'ice cream', which holds white space"),
        ({"tokens": ["a", ""]}, "caption 2 has the token '', which is empty"),
        ({"tokens": ["a\u00a0"]}, r"caption 2 has the token 'a\xa0', which holds white space"),
        ({"tokens": ["a\n"]}, r"caption 2 has the token 'a\n', which holds white space"),
        ({"tokens": ["\u3000"]}, r"caption 2 has the token '\u3000', which holds white space"),
        ({"tokens": ["<start>", "a"]}, "caption 2 has the token '<start>', which is reserved"),
        ({"tokens": ["a", "<pad>"]}, "caption 2 has the token '<pad>', which is reserved"),
        ({"tokens": [HALF]}, r"caption 2 has the token '\ud83d', which holds half of a character"),
        ({"raw": "A dog.", "tokens": ["x" + HALF]}, r"caption 2 has the token 'x\ud83d', which"),
        ({"raw": f"A dog {HALF}"}, r"caption 2 has the token '\ud83d', which holds half"),
        ({"raw": HALF, "tokens": ["a"]}, r"caption 2 holds half of a character, '\ud83d'"),
    ],
)
def test_training_and_check_refuse_the_same_captions(tmp_path, sentence, problem):
    bad = entry("b.jpg", "val", sentences=[{"raw": "A dog."}, sentence])
    path = write(tmp_path, entry("a.jpg"), bad, entry("c.jpg", "test"))
    with pytest.raises(DataError, match=re.escape(f"{path}: b.jpg: {problem}")):
        load_karpathy(path)
    report = check_dataset(path, show_progress=False)
    (found,) = report.findings["unusable captions"]
    assert found.startswith(f"b.jpg: {problem}")
    str(report).encode()


def test_unknown_words_are_no_reserved_ones(tmp_path):
    path = write(tmp_path, entry("a.jpg", sentences=[{"tokens": ["a", "<unk>"]}]))
    assert load_karpathy(path).images[0].tokens == (("a", "<unk>"),)
    assert check_dataset(path, show_progress=False).findings["unusable captions"] == ()


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 300 + ".jpg", HALF + ".jpg", "caf\udce9.jpg"])
def test_names_that_no_file_has_are_missing_images(tmp_path, name):
    touch(tmp_path / "b.jpg")
    path = write(tmp_path, entry(name, filepath=name), entry("b.jpg", "val"), images_dir=name)
    assert load_karpathy(path).images[0].filename == name
    report = check_dataset(path, show_progress=False)
    (missing,) = report.findings["missing images"]
    assert missing.endswith(name)
    str(report).encode()


def test_a_name_with_a_byte_that_is_not_utf8_is_the_file_of_that_name(tmp_path):
    touch(tmp_path / "caf\udce9.jpg")
    path = write(tmp_path, entry("caf\udce9.jpg"))
    assert load_karpathy(path).images[0].path.is_file()


def test_flickr8k_has_its_known_counts(shared_data: Path):
    dataset = load_karpathy(shared_data / "data" / "flickr8k" / "dataset_flickr8k.json")
    assert (dataset.name, dataset.left_out) == ("flickr8k", 0)
    assert dataset.counts() == {"train": 6000, "val": 1000, "test": 0}
    assert all(image.path.is_file() for image in dataset.images[:50])
    assert sum(len(image.captions) for image in dataset.images) == 35_000
