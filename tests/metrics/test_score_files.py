import json
from pathlib import Path
from typing import Any

import pytest

from captioner.data.karpathy import load_karpathy
from captioner.errors import DataError, OptionError
from captioner.metrics import read_pairs

COCO = {
    "images": [{"id": 5}, {"id": 2}, {"id": 8}],
    "annotations": [
        {"id": 1, "image_id": 2, "caption": "A cat."},
        {"id": 2, "image_id": 5, "caption": "A dog."},
        {"id": 3, "image_id": 2, "caption": "Some cat."},
    ],
}
KARPATHY = {
    "dataset": "tiny",
    "images": [
        {"imgid": 9, "cocoid": 70, "split": "test", "sentences": [{"raw": "A dog."}]},
        {"imgid": 1, "split": "test", "sentences": [{"raw": "A"}, {"tokens": ["a", "cat"]}]},
        {"imgid": 2, "split": "val", "sentences": [{"raw": "A bus."}]},
    ],
}
RESULTS = [{"image_id": 2, "caption": "cat"}, {"image_id": 5, "caption": "dog"}]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(name: str, value: object) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return write


def test_coco_annotations_keep_their_order_and_say_nothing(
    file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    references, candidates = read_pairs(file("a.json", COCO), file("b.json", RESULTS))
    assert list(references.items()) == [(5, ["A dog."]), (2, ["A cat.", "Some cat."])]
    assert candidates == {2: "cat", 5: "dog"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("split", "ids"), [("test", [9, 1]), ("val", [2]), (None, [9, 1, 2])])
def test_karpathy_images_are_known_by_an_id_that_all_have(
    file: Any, split: str | None, ids: list[int]
) -> None:
    references, _ = read_pairs(file("a.json", KARPATHY), file("b.json", RESULTS), split=split)
    assert list(references) == ids
    if split == "test":
        assert references == {9: ["A dog."], 1: ["A", "a cat"]}


def test_karpathy_images_have_the_ids_and_references_of_an_evaluation(file: Any) -> None:
    entries = [
        {"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": "A dog."}], **ids}
        for number, (split, ids) in enumerate(
            [("train", {"cocoid": 7}), ("test", {}), ("restval", {}), ("test", {"imgid": 1})]
        )
    ]
    entries[1]["sentences"] += [{"raw": "..."}, {"raw": "", "tokens": ["a", "cat"]}]
    path = file("a.json", {"images": entries})
    dataset = load_karpathy(path)
    for split in ("train", "test"):
        evaluated = {image.image_id: list(image.captions) for image in dataset.split(split)}
        candidates = file("b.json", [{"image_id": key, "caption": "a"} for key in evaluated])
        assert read_pairs(path, candidates, split=split)[0] == evaluated


TEXT = ["A dog."]
FORMS_OF_REFERENCES: list[Any] = [
    {"1": TEXT, "2": TEXT, "01": TEXT},
    *(
        {
            "images": [{"id": key} for key in listed],
            "annotations": [
                {"id": 5, "image_id": key, "caption": "A dog."} for key in ("1", 2, "01")
            ],
        }
        for listed in ((1, "2", "01"), ("1", 2, "01"), ())
    ),
    {
        "images": [
            {"imgid": key, "split": "test", "sentences": [{"raw": "A dog."}]}
            for key in ("1", 2, "01")
        ]
    },
]


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("references", FORMS_OF_REFERENCES)
@pytest.mark.parametrize(
    "candidates",
    [
        [{"image_id": key, "caption": "a"} for key in ("1", 2.0, "01")],
        {"1": "a", "2": ["a"], "01": "a"},
    ],
)
def test_ids_are_equal_where_they_spell_the_same_number(
    file: Any, references: Any, candidates: Any, subset: bool
) -> None:
    paths = file("a.json", references), file("b.json", candidates)
    found = read_pairs(*paths, subset=subset)
    assert found == ({1: TEXT, 2: TEXT, "01": TEXT}, {1: "a", 2: "a", "01": "a"})
    assert not any(isinstance(key, float) for part in found for key in part)


def test_an_unknown_split_is_named_with_those_there_are(file: Any) -> None:
    with pytest.raises(DataError, match="no images in split 'dev'; it has test, val"):
        read_pairs(file("a.json", KARPATHY), file("b.json", RESULTS), split="dev")


def test_one_file_may_hold_both(fakecap: Path) -> None:
    references, candidates = read_pairs(fakecap / "pairs.json")
    assert len(references) == len(candidates) == 1000
    assert candidates["COCO_val2014_000000081922.jpg"] == "plane is flying through the sky"
    with pytest.raises(OptionError, match="holds candidates beside its references"):
        read_pairs(fakecap / "pairs.json", fakecap / "res.json")


def test_plain_mappings_agree_with_coco_results(fakecap: Path) -> None:
    results = fakecap / "captions_val2014_fakecap_results.json"
    references, candidates = read_pairs(fakecap / "gts.json", results)
    assert read_pairs(fakecap / "gts.json", fakecap / "res.json") == (references, candidates)
    assert 184321 in references


def test_a_subset_keeps_the_references_of_the_candidates(file: Any) -> None:
    arguments = file("a.json", COCO), file("b.json", RESULTS[:1])
    assert list(read_pairs(*arguments, subset=True)[0]) == [2]
    assert list(read_pairs(*arguments)[0]) == [5, 2]


@pytest.mark.parametrize(
    ("references", "candidates", "message"),
    [
        (COCO, RESULTS * 2, "b.json: 2 images have a caption twice: 2, 5; keep"),
        ({**COCO, "images": [{"id": 5}] * 2}, RESULTS, "a.json: 1 image has an entry twice: 5"),
        (COCO, {"a": 1}, "b.json is not a valid file of candidates: a caption is 1, not text"),
        (COCO, {"1": ["a", "b"]}, "image 1 has 2 candidates, exactly 1 is allowed"),
        (COCO, [{"image_id": 1}], "b.json .* an entry lacks 'caption'"),
        (COCO, ["a dog"], "b.json is not a valid file of candidates"),
        (COCO, 3, "b.json is no known form of candidates; allowed are"),
        ([1, 2], RESULTS, "a.json is no known form of references; allowed are"),
        ({"a": "dog"}, RESULTS, "a.json is no known form of references"),
        ({"annotations": [{"id": 1}]}, RESULTS, "a.json .* an entry lacks 'image_id'"),
        ({"images": [{"split": "test"}]}, RESULTS, "a.json .* an entry lacks 'sentences'"),
        (COCO, [{"image_id": key, "caption": "a"} for key in ("1", 1)], "1 image has a caption tw"),
        ({"images": [3]}, RESULTS, "a.json is not a valid file of references"),
    ],
)
def test_malformed_files_are_one_line_that_names_them(
    file: Any, references: object, candidates: object, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(file("a.json", references), file("b.json", candidates))
    assert "\n" not in str(caught.value)


def test_pairs_that_come_twice_or_lack_a_part_are_refused(file: Any) -> None:
    pair = {"image_name": "a.jpg", "captions": ["a"], "prediction": "b"}
    with pytest.raises(DataError, match=r"'a\.jpg'; keep one"):
        read_pairs(file("a.json", [pair, pair]))
    with pytest.raises(DataError, match="an entry lacks 'captions'"):
        read_pairs(file("a.json", [{"image_name": "a.jpg", "prediction": "b"}]))


def test_missing_files_are_named(file: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a\.json holds no candidates; name a file"):
        read_pairs(file("a.json", COCO))
    with pytest.raises(DataError, match=r"none\.json"):
        read_pairs(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"candidates file .*none\.json"):
        read_pairs(file("a.json", COCO), tmp_path / "none.json")


@pytest.mark.parametrize("where", ["references", "candidates"])
def test_an_image_that_an_object_has_twice_is_named(file: Any, where: str) -> None:
    once = {"references": '{"1": ["a dog"]}', "candidates": '{"1": ["a dog"]}'}
    once[where] = '{"2": ["zzz"], "1": ["a dog"], "1": ["zzz"]}'
    paths = {name: file(f"{name}.json", None) for name in once}
    for name, text in once.items():
        paths[name].write_text(text)
    with pytest.raises(DataError, match=rf"{where}\.json has '1' twice in one object; keep one"):
        read_pairs(*paths.values())
