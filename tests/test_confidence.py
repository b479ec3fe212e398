"""The confidence curve of a model: what it says, and how it is kept with the model's files."""

import json
import math
from pathlib import Path

import pytest

from captioner.confidence import (
    CONFIDENCE,
    ConfidenceCurve,
    figures_of,
    read_confidence_curve,
    store_confidence_curve,
)
from captioner.errors import CheckpointError
from captioner.files import write_json
from captioner.hashed_folder import HASHES, hashed_folder_written_aside, read_hashes, verified

CURVE = ConfidenceCurve(weights=(0.5, 0.25), bias=1.0, fitted={"data": ["some"]})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    with hashed_folder_written_aside(folder) as aside:
        write_json(aside / "model.json", {"weights": 1})
        (aside / "weights").write_bytes(bytes(range(256)))
    return folder


def test_confidence_is_the_logistic_of_log_probability_and_length() -> None:
    log_probs = (-0.5, -1.25, -0.25)
    assert figures_of(log_probs) == (-2.0, 3.0)
    assert CURVE.confidence(log_probs) == pytest.approx(1 / (1 + math.exp(-(1 - 1 + 0.75))))
    assert CURVE.confidence((-1e9,)) == pytest.approx(0, abs=1e-100)
    assert ConfidenceCurve(weights=(-1.0, 0.0), bias=0.0).confidence((-1e9,)) == 1.0


def test_a_model_without_a_curve_has_none(model: Path) -> None:
    assert read_confidence_curve(model) is None


def test_a_curve_is_stored_with_the_model_and_hashed(model: Path) -> None:
    before = read_hashes(model, ())
    for curve in (ConfidenceCurve(weights=(0.1, 0.2), bias=0.0), CURVE):  # the second replaces
        store_confidence_curve(model, curve)
        assert read_confidence_curve(model) == curve
    hashes = read_hashes(model, ())
    assert hashes.keys() == before.keys() | {CONFIDENCE}
    for name in hashes:
        verified(model, hashes, name)
    assert {name: hashes[name] for name in before} == before
    assert sorted(path.name for path in model.iterdir()) == sorted([*hashes, HASHES])


def test_a_curve_leaves_all_else_in_the_folder_as_it_was(model: Path) -> None:
    (model / "NOTES.md").write_text("trained in May")
    (model / ".git" / "refs").mkdir(parents=True)
    (model / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (model / "data").symlink_to("nowhere")
    listed = read_hashes(model, ()).keys()
    before = {path.relative_to(model) for path in model.rglob("*")}
    for _ in range(2):
        store_confidence_curve(model, CURVE)
        found = {path.relative_to(model) for path in model.rglob("*")}
        assert found == before | {Path(CONFIDENCE)}
    assert (model / "NOTES.md").read_text() == "trained in May"
    assert (model / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
    assert (model / "data").readlink() == Path("nowhere")
    assert read_hashes(model, ()).keys() == listed | {CONFIDENCE}
    (model / "NOTES.md").write_text("trained in June")  # no part of the model
    assert read_confidence_curve(model) == CURVE


def test_a_curve_that_was_altered_is_named(model: Path) -> None:
    store_confidence_curve(model, CURVE)
    path = model / CONFIDENCE
    path.write_text(path.read_text().replace("0.25", "9.25"))
    with pytest.raises(CheckpointError, match=r"confidence\.json is truncated or was altered"):
        read_confidence_curve(model)


@pytest.mark.parametrize(
    "value", [[], {"format_version": 2}, {**CURVE.to_json(), "weights": {"log_prob": 1}}]
)
def test_what_is_no_curve_is_refused_in_one_line(model: Path, value: object) -> None:
    store_confidence_curve(model, CURVE)
    write_json(model / CONFIDENCE, value)
    with hashed_folder_written_aside(model) as aside:
        write_json(aside / CONFIDENCE, value)
    with pytest.raises(CheckpointError, match="captioner calibrate") as raised:
        read_confidence_curve(model)
    assert "\n" not in str(raised.value)


def test_a_damaged_model_keeps_its_files_and_gets_no_curve(model: Path) -> None:
    (model / "weights").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="weights is truncated"):
        store_confidence_curve(model, CURVE)
    assert (model / "weights").read_bytes() == b"other"
    assert not (model / CONFIDENCE).exists()
    assert CONFIDENCE not in json.loads((model / HASHES).read_text())
