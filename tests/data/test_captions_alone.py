"""Captions without photographs: both forms, what is left out, and what is refused."""

import json
from pathlib import Path

import pytest

from captioner.data.captions_alone import read_captions_alone, without_those_of
from captioner.data.karpathy import load_karpathy
from captioner.errors import DataError


def file(tmp_path: Path, name: str, content: object) -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_table_gives_the_captions_of_each_image_together(tmp_path):
    text = 'cocoid\tcaption\n7\tA dog runs.\n9\t"Zebras" graze\n7\tOne dog\n9\t!\n'
    dog, zebras = read_captions_alone(file(tmp_path, "a.tsv", text))
    assert (dog.captions, dog.cocoid) == (("A dog runs.", "One dog"), 7)
    assert dog.tokens == (("a", "dog", "runs"), ("one", "dog"))
    assert (zebras.captions, zebras.cocoid) == (('"Zebras" graze',), 9)


def test_a_table_without_numbers_of_images_is_a_list_of_captions(tmp_path):
    found = read_captions_alone(file(tmp_path, "a.csv", 'caption\n"a dog, running"\na cat\n'))
    assert [(one.captions, one.cocoid) for one in found] == [
        (("a dog, running",), None),
        (("a cat",), None),
    ]


def test_a_json_needs_no_names_of_files_and_only_training_captions_are_taken(tmp_path):
    entries = [
        {"cocoid": 1, "split": "train", "sentences": [{"raw": "A dog"}]},
        {"cocoid": 2, "split": "restval", "sentences": [{"tokens": ["a", "cat"]}]},
        {"cocoid": 3, "split": "val", "sentences": [{"raw": "A cow"}]},
        {"cocoid": 4, "split": "test", "sentences": [{"raw": "A hen"}]},
        {"sentences": [{"raw": "A pig"}]},
    ]
    found = read_captions_alone(file(tmp_path, "a.json", {"images": entries}))
    assert [(one.tokens, one.cocoid) for one in found] == [
        ((("a", "dog"),), 1),
        ((("a", "cat"),), 2),
        ((("a", "pig"),), None),
    ]


def test_captions_of_images_that_judge_are_left_out(tmp_path):
    entries = [
        {"filename": f"{n}.jpg", "cocoid": n, "split": split, "sentences": [{"raw": "a dog"}]}
        for n, split in ((1, "train"), (2, "val"))
    ]
    dataset = load_karpathy(file(tmp_path, "dataset.json", {"images": entries}))
    alone = read_captions_alone(file(tmp_path, "a.tsv", "cocoid\tcaption\n1\ta\n2\ta\n3\ta\n"))
    assert [one.cocoid for one in without_those_of(dataset.split("val"), alone)] == [1, 3]
    other = read_captions_alone(file(tmp_path, "b.csv", "image,caption\n2,a\n"))
    assert without_those_of(dataset.split("val"), other) == other


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "caption\na", "its name ends in .csv, .json, .tsv"),
        ("a.tsv", "image\ttext\n1\ta", "line 1: the header is 'image, text'; it must be caption"),
        ("a.tsv", "caption\tcaption\na\tb", "line 1: the header is 'caption, caption'"),
        ("a.tsv", "cocoid\tcaption\n1\ta\tb", "line 2: it has 3 fields and the header 2"),
        ("a.tsv", "cocoid\tcaption\none\ta", "line 2 has cocoid 'one'; it is a whole number"),
        ("a.csv", 'caption\n"a', "line 2: unexpected end of data; check the quotes"),
        ("a.tsv", "caption\n!\n", "holds no caption to train with"),
        ("a.json", {"pictures": []}, 'form, an object with a list "images"'),
        ("a.json", {"images": [{}]}, 'image 0 has no list "sentences"'),
        ("a.json", {"images": [{"sentences": [{}]}]}, 'with neither "raw" nor "tokens"'),
        (
            "a.json",
            {"images": [{"sentences": [{"tokens": ["<start>"]}]}]},
            "image 0: caption 1 has the token '<start>', which is reserved",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, message):
    with pytest.raises(DataError) as caught:
        read_captions_alone(file(tmp_path, name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.tsv cannot be read: No such file"):
        read_captions_alone(tmp_path / "gone.tsv")
    (tmp_path / "a.tsv").write_bytes(b"caption\n\xff")
    with pytest.raises(DataError, match=r"a\.tsv is not UTF-8; save it as UTF-8"):
        read_captions_alone(tmp_path / "a.tsv")
