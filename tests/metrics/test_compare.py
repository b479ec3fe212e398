"""The commands that compare and resample: files in, table and JSON out, errors in one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import captioner.metrics.scorer
from captioner.cli import main
from captioner.metrics.meteor import MeteorProcess
from captioner.metrics.signature import read_signature, signature_line, write_signature

IMAGES = 12


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """References in two forms, good and bad captions in two forms."""
    entries, good, bad = [], [], []
    for number in range(IMAGES):
        words = [f"a dog number {number} runs", f"dog {number} is running"]
        sentences = [{"raw": one, "tokens": one.split()} for one in words]
        entries.append(
            {"filename": f"{number}.jpg", "imgid": number, "split": "val", "sentences": sentences}
        )
        good.append({"image_id": number, "caption": words[0], "references": words})
        other = words[0] if number < 2 else "two cats sit"
        bad.append({"image_id": number, "caption": other, "references": words})
    for name, value in (("references", {"images": entries}), ("good", good), ("bad", bad)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return tmp_path


@pytest.fixture(autouse=True)
def shared_meteor(meteor: MeteorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands use the METEOR that runs for all tests, and leave it running."""
    monkeypatch.setattr(captioner.metrics.scorer, "MeteorProcess", lambda **_: meteor)
    monkeypatch.setattr(meteor, "close", lambda: None)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def found(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    return json.loads(run(capsys, *words, "--json", "--tokenised"))


def test_two_files_with_their_references_are_compared(files, capsys):
    names = (files / "bad.json", files / "good.json")
    value = found(capsys, "compare", *names, "--bootstrap", 200)
    cider = value["metrics"]["CIDEr"]
    assert cider["first"] < cider["second"]
    assert 0 < cider["difference"][0] < cider["difference"][1]
    assert cider["p_value"] < 0.02
    named = found(
        capsys, "compare", files / "references.json", *names, "--split", "val", "--bootstrap", 200
    )
    assert named["metrics"] == value["metrics"]
    assert [one["split"] for one in named["signatures"]] == ["val", "val"]
    table = run(capsys, "compare", *names, "--tokenised", "--bootstrap", 50).splitlines()
    assert table[0].split() == ["A", "B", "B", "-", "A", "95", "%", "of", "B", "-", "A", "p"]
    assert table[7].startswith("CIDEr")
    assert "50 bootstrap samples" in table[8]


def test_scores_come_with_intervals_and_a_signature(files, capsys):
    write_signature(files / "bad.json", {"beam_size": 3, "checkpoint_hash": "0123456789abcdef"})
    words = ("score", files / "references.json", files / "bad.json", "--split", "val")
    value = found(capsys, *words, "--bootstrap", 100, "--out", files / "out.json")
    low, high = value["intervals"]["CIDEr"]
    assert low < value["CIDEr"] < high
    assert json.loads((files / "out.json").read_text())["intervals"] == value["intervals"]
    assert len(json.loads((files / "out.json").read_text())["images"]) == IMAGES
    text = run(capsys, *words, "--tokenised", "--bootstrap", 100)
    assert f"  [{low:.4f}, {high:.4f}]\n" in text
    assert "signature: split val | 12 images | 24 references | tokeniser none | end token" in text
    assert "| beam 3 | model 0123456789ab |" in text
    assert "intervals" not in found(capsys, *words)
    alone = found(capsys, "score", files / "bad.json")
    assert alone["CIDEr"] == value["CIDEr"]
    assert alone["signature"]["beam_size"] == 3


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="this system has no /dev/fd")
@pytest.mark.parametrize(
    "words",
    [
        ["score", "references.json", "bad.json", "--split", "val"],
        ["score", "bad.json"],
        ["compare", "references.json", "bad.json", "good.json", "--split", "val", "--subset"],
        ["compare", "bad.json", "good.json"],
    ],
)
def test_files_may_be_pipes(files, capsys, words):
    def piped(path: Path) -> str:
        """As `<(cat PATH)` of a shell names it."""
        reading, writing = os.pipe()
        ends.append(reading)
        with open(writing, "wb") as pipe:
            pipe.write(path.read_bytes())
        return f"/dev/fd/{reading}"

    ends: list[int] = []
    expected, given = (
        found(capsys, *(name(files / one) if one.endswith(".json") else one for one in words))
        for name in (str, piped)
    )
    for end in ends:
        os.close(end)
    assert given == expected


def test_nothing_is_written_beside_a_device(tmp_path):
    (tmp_path / "captions.json").symlink_to(os.devnull)
    write_signature(tmp_path / "captions.json", {"beam_size": 5})
    assert [path.name for path in tmp_path.iterdir()] == ["captions.json"]


@pytest.mark.parametrize(
    "words",
    [
        ["score", "references.json", "bad.json", "--split", "val"],
        ["score", "bad.json"],
        ["compare", "references.json", "bad.json", "good.json", "--split", "val"],
    ],
)
def test_no_file_that_is_read_is_written_over(files, capsys, monkeypatch, words):
    monkeypatch.chdir(files)
    read = [word for word in words if word.endswith(".json")]
    for name in read:
        before = Path(name).read_bytes()
        assert main([*words, "--tokenised", "--out", f"./{name}"]) == 2
        assert capsys.readouterr() == (
            "",
            f"error: --out would overwrite {name}, which is one of the files to read; "
            "give another name\n",
        )
        assert Path(name).read_bytes() == before


def test_a_signature_counts_for_the_captions_it_was_written_with(tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text("[]")
    assert read_signature(captions) == {}
    write_signature(captions, {"beam_size": 5})
    assert read_signature(captions) == {"beam_size": 5}
    assert signature_line({"beam_size": 5, "split": None}) == "signature: beam 5"
    plain = {"beam_size": 3, "repeat_words": True, "attribute_threshold": 1.0}
    assert signature_line(plain) == "signature: beam 3 | words repeated | attributes from 1"
    captions.write_text("[ ]")
    assert read_signature(captions) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "good.json"], "1 file is given; name two files of captions"),
        (["compare", "good.json", "bad.json", "--bootstrap", "1"], "--bootstrap is 1; draw at le"),
        (["score", "bad.json", "--bootstrap", "0"], "--bootstrap is 0; draw at least 2 times"),
        (["compare", "good.json", "plain.json"], "plain.json holds no references beside its capt"),
        (["compare", "references.json", "bad.json"], "references.json holds no references beside"),
        (["score", "refs.json", "odd.json"], 'an entry is 1, not {"image_id", "caption"}'),
        (["score", "bad.json", "--seed", "-5"], "--seed is -5 without --bootstrap; it acts on"),
        (["score", "bad.json", "--seed", "0"], "--seed is 0 without --bootstrap; it acts on"),
        (["compare", "good.json", "bad.json", "--seed", "-5"], "--seed is -5; it cannot be neg"),
        (["score", "refs.json", "plain.json", "--split", "val"], "--split is val, and refs.json"),
        (["score", "good.json", "--split", "test"], "and good.json has no splits, as a Karpathy"),
        (["compare", "good.json", "bad.json", "--split", "val"], "and good.json has no splits"),
        (
            ["compare", "refs.json", "plain.json", "plain.json", "--split", "val"],
            "and refs.json has no splits",
        ),
        (["score", "references.json", "plain.json"], "has no images in split 'test'"),
        (["compare", "good.json", "fewer.json"], "do not hold the same references; compare capt"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(files, words, message, capsys, monkeypatch):
    fewer = json.loads((files / "good.json").read_text())[1:]
    (files / "fewer.json").write_text(json.dumps(fewer))
    (files / "plain.json").write_text('[{"image_id": "0", "caption": "a dog"}]')
    (files / "refs.json").write_text('{"0": ["a dog"]}')
    (files / "odd.json").write_text("[1]")
    monkeypatch.chdir(files)
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
