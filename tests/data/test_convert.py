"""Tables of captions become Karpathy's JSON; bad rows are refused with file and line."""

import json
import math
import re
from pathlib import Path

import pytest

from captioner.data.convert import convert
from captioner.data.karpathy import load_karpathy
from captioner.errors import DataError, OptionError


def table(folder: Path, name: str, content: str, *images: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return folder / name


TWO_IMAGES = [("a.jpg", "A dog, running.", "train"), ("b.jpg", 'A "big" cat.', "test"),
              ("a.jpg", "A dog at play.", "train")]  # fmt: skip
CSV = (
    'image,caption,split\na.jpg,"A dog, running.",train\n'
    'b.jpg,"A ""big"" cat.",test\na.jpg,A dog at play.,train\n'
)
FORMS = {
    "plain.csv": CSV,
    "excel.csv": "\ufeff" + CSV.replace("\n", "\r\n"),
    "blank_lines.csv": CSV.replace("\n", "\n\n"),
    "other_columns.csv": (
        "Split,photographer,Caption,Image\ntrain,me,\"A dog, running.\",a.jpg\n"
        'test,,"A ""big"" cat.",./b.jpg\n train ,me,A dog  at play.,a.jpg\n'
    ),
    "semicolons.csv": (
        'image;caption;split\na.jpg;A dog, running.;train\nb.jpg;"A ""big"" cat.";test\n'
        "a.jpg;A dog at play.;train"
    ),
    "tabs.tsv": (
        'image\tcaption\tsplit\na.jpg\tA dog, running.\ttrain\nb.jpg\t"A ""big"" cat."\ttest\n'
        "a.jpg\tA dog at play.\ttrain"
    ),
    "old_mac.csv": CSV.replace("\n", "\r"),
    "columns.csv": (
        "image,Caption,caption ,split\n"
        "a.jpg,\"A dog, running.\",A dog at play.,train\n"
        'b.jpg,"A ""big"" cat.",,test\n'
    ),
    "numbered.csv": (
        "caption1;image;caption_2;split;caption 3\n"
        "A dog, running.;a.jpg; ;train;A dog at play.\n"
        ';b.jpg;"A ""big"" cat.";test;\n'
    ),
    "lists.jsonl": (
        '{"image": "a.jpg", "captions": ["A dog, running.", "A dog at play."], "split": "train"}\n'
        '{"image": "b.jpg", "caption": "A \\"big\\" cat.", "caption_2": null, "split": "test"}'
    ),
    "twice.jsonl": (
        '{"image": "a.jpg", "caption": "A dog, running.", "caption": "A dog at play.", '
        '"split": "train"}\n{"image": "b.jpg", "caption": ["A \\"big\\" cat."], "split": "test"}'
    ),
    "plain.jsonl": "\n".join(
        json.dumps({"image": image, "caption": caption, "split": split})
        for image, caption, split in TWO_IMAGES
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_table_gives_the_same_data_set(tmp_path, name):
    source = table(tmp_path, name, FORMS[name], "a.jpg", "b.jpg")
    converted = convert(source)
    assert converted.json_path == tmp_path / f"dataset_{source.stem}.json"
    dataset = load_karpathy(converted.json_path)
    assert dataset == converted
    assert dataset.name == source.stem
    assert [(image.filename, image.split, image.captions) for image in dataset.images] == [
        ("a.jpg", "train", ("A dog, running.", "A dog at play.")),
        ("b.jpg", "test", ('A "big" cat.',)),
    ]
    assert dataset.images[0].tokens == (("a", "dog", "running"), ("a", "dog", "at", "play"))
    assert [image.image_id for image in dataset.images] == [0, 1]
    assert [image.sentence_ids for image in dataset.images] == [(0, 1), (2,)]


def many(folder: Path, count: int) -> Path:
    names = [f"{number}.jpg" for number in range(count)]
    rows = "".join(f"{name},A caption.\n" for name in [*names, *reversed(names)])
    return table(folder, "many.csv", "image,caption\n" + rows, *names)


def test_without_splits_images_are_divided_by_a_seed(tmp_path):
    source = many(tmp_path, 50)
    dataset = convert(source)
    assert dataset.counts() == {"train": 40, "val": 5, "test": 5}
    assert all(len(image.captions) == 2 for image in dataset.images)
    assert convert(source, tmp_path / "again.json").images == dataset.images
    assert convert(source, seed=1).images != dataset.images
    other = convert(source, val_share=0.5, test_share=0)
    assert other.counts() == {"train": 25, "val": 25, "test": 0}


def test_few_images_are_in_every_split(tmp_path):
    assert convert(many(tmp_path / "3", 3)).counts() == {"train": 1, "val": 1, "test": 1}
    assert convert(many(tmp_path / "2", 2)).counts() == {"train": 2, "val": 0, "test": 0}


def test_words_for_the_validation_split_are_understood(tmp_path):
    rows = "".join(f"{word}.jpg,Cat.,{word}\n" for word in ("dev", "Valid", "VALIDATION", "val"))
    source = table(tmp_path, "a.csv", "image,caption,split\n" + rows, "dev.jpg")
    assert convert(source).counts() == {"train": 0, "val": 4, "test": 0}


def test_images_are_found_again_from_a_json_in_another_folder(tmp_path):
    source = table(tmp_path / "tables", "a.csv", "image,caption\nx/a.jpg,Cat.\n")
    photographs = tmp_path / "photographs"
    (photographs / "x").mkdir(parents=True)
    (photographs / "x" / "a.jpg").touch()
    dataset = convert(source, tmp_path / "out", images=photographs, name="Holidays")
    assert dataset.json_path == tmp_path / "out" / "dataset_a.json"
    assert dataset.name == "holidays"
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    (image,) = load_karpathy(moved / "out" / "dataset_a.json").images
    assert image.path.is_file()
    assert image.filename == "x/a.jpg"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a.jpg,A cat.\n", "line 1: the header is 'a.jpg,A cat.'; it must name the"),
        ("a.csv", "", "line 1: the header is ''"),
        ("a.csv", "image,caption\n", "has no rows"),
        ("a.csv", "image,caption\na.jpg,\n", "line 2: there is no caption; correct the table"),
        ("a.csv", "image,caption\n,Cat.\n", "line 2: there is no image"),
        ("a.csv", "image,caption\na.jpg,...\n", "line 2: the caption '...' has no words"),
        ("a.csv", "image,caption\na.jpg,A cat, a dog\n", "line 2: it has 3 fields and the header"),
        ("a.csv", 'image,caption\na.jpg,"two\nlines"\na.jpg\n', "line 4: it has 1 fields"),
        ("a.csv", 'image,caption\na.jpg,"A cat\n', "line 2: unexpected end of data; check the"),
        ("a.csv", 'image,caption\na.jpg,"A" cat\n', "line 2: ',' expected after '\"'; check"),
        ("a.csv", "image,caption,split\na.jpg,Cat.,holdout\n", "line 2: the split is 'holdout'"),
        ("a.csv", "image,caption,split\na.jpg,Cat.,val\na.jpg,Dog.,test\n",
         "line 3: the image is in test here, but in val before"),
        ("a.csv", "image,caption,split\na.jpg,Cat.,val\nb.jpg,Dog.,\n",
         "line 3: it has no split, though others have one"),
        ("a.csv", "image,caption\na.jpg,\na.jpg,Cat.\na.jpg,\na.jpg,?\n",
         "line 2: there is no caption; correct the table (2 more bad rows, lines 4, 5)"),
        ("a.jsonl", '{"image": "a.jpg"\n', "line 1: it is not valid JSON"),
        ("a.jsonl", '\n["a.jpg", "Cat."]\n', "line 2: it is no object"),
        ("a.jsonl", '{"image": "a.jpg", "caption": 3}\n', "line 1: there is no caption"),
        ("a.jsonl", '{"image": "a.jpg", "caption": "Cat.", "split": 3}\n', "the split is 3"),
        ("a.csv", "image,caption,image\na,Cat.,b\n", 'line 1: "image" is there twice; leave'),
        ("a.csv", "image,caption,caption\na.jpg, ,\n", "line 2: there is no caption"),
        ("a.csv", "image,caption,caption\na.jpg,Cat.,...\n", "line 2: the caption '...' has no"),
        ("a.csv", "image,comment\na.jpg,Cat.\n", "line 1: the header is 'image,comment'; it must"),
        ("a.jsonl", '{"image": "a.jpg", "image": "b.jpg"}\n', 'line 1: "image" is there twice'),
        ("a.jsonl", '{"image": "a.jpg", "captions": []}\n', "line 1: there is no caption"),
        ("a.jsonl", '{"image": "a.jpg", "captions": ["Cat.", 3]}\n', "line 1: there is no caption"),
        ("a.jsonl", '{"image": "a.jpg", "caption": "Cat \\ud83d"}\n',
         r"line 1: the caption 'Cat \ud83d' holds half of a character; correct the table"),
        ("a.xlsx", "", "its name ends in .csv, .jsonl, .ndjson, .tsv, .txt"),
        ("a.csv", "image,caption\ngone.jpg,Cat.\n", "none of the 1 images of"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_file_and_line(tmp_path, name, content, message):
    source = table(tmp_path, name, content, "a.jpg")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        convert(source)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.json"))


def test_another_encoding_is_refused_with_its_line(tmp_path):
    source = tmp_path / "latin.csv"
    source.write_bytes("image,caption\na.jpg,Cat.\na.jpg,Café.\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv, line 3: it is not UTF-8"):
        convert(source)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_unicode_text_of_spreadsheets_is_understood(tmp_path, encoding):
    (tmp_path / "ä.jpg").touch()
    source = tmp_path / "a.txt"
    source.write_bytes("\ufeffimage\tcaption\r\nä.jpg\tCafé, open.\r\n".encode(encoding))
    (image,) = convert(source).images
    assert (image.filename, image.captions) == ("ä.jpg", ("Café, open.",))
    source.write_bytes(source.read_bytes() + b"\x00")
    with pytest.raises(
        DataError, match=r"a\.txt, line 3: it is not UTF-16; save the table as UTF-8"
    ):
        convert(source)


def test_a_name_that_is_not_utf8_stays_that_of_its_file(tmp_path):
    name = "caf\udce9.jpg"
    row = json.dumps({"image": name, "caption": "Cat."})
    source = table(tmp_path, "a.jsonl", row, name)
    (image,) = load_karpathy(convert(source).json_path).images
    assert image.filename == name
    assert image.path.is_file()


def test_a_missing_table_and_shares_out_of_range_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv cannot be read: No such file"):
        convert(tmp_path / "gone.csv")
    for val_share, test_share in ((-0.1, 0.1), (0.5, 0.5), (math.nan, 0.1), (0.1, math.nan)):
        with pytest.raises(OptionError, match=f"val_share is {val_share} and test_share"):
            convert(tmp_path / "a.csv", val_share=val_share, test_share=test_share)
    source = many(tmp_path, 3)
    with pytest.raises(
        OptionError, match=r"0\.49 and test_share 0\.5 of 3 images leave none to train"
    ):
        convert(source, tmp_path / "out.json", val_share=0.49, test_share=0.5)
    assert not (tmp_path / "out.json").exists()


def test_the_flickr8k_captions_give_the_words_of_its_json(shared_data, tmp_path):
    expected = load_karpathy(shared_data / "data" / "flickr8k" / "dataset_flickr8k.json")
    rows = [
        json.dumps({"image": image.filename, "caption": caption, "split": image.split})
        for image in expected.images
        for caption in image.captions
    ]
    source = table(tmp_path, "flickr8k.jsonl", "\n".join(rows))
    converted = load_karpathy(convert(source, images=expected.images_dir).json_path)
    assert [(image.path.resolve(), image.tokens) for image in converted.images] == [
        (image.path.resolve(), image.tokens) for image in expected.images
    ]
