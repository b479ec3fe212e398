"""A run on several data sets: scored for each, resumed exactly, found again by the evaluation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.checkpoint import load_checkpoint
from captioner.data.shapes import generate
from captioner.files import file_hash
from training.evaluate_coco import main as evaluate
from training.run_folder import RunFolder, read_metrics
from training.train_coco import TrainCoco

TrainHere = Callable[..., int]
CONSTANT = ["--lr-schedule", "constant", "--warmup-steps", "0", "--p", "0.4"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two samples whose ids and names of files are the same and whose pictures are not."""
    found = []
    for seed, (name, sizes) in enumerate((("circles", (20, 4, 0)), ("squares", (12, 3, 2)))):
        path = generate(tmp_path_factory.mktemp(name) / "data", seed=seed, sizes=sizes)
        path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": name}))
        found.append(path)
    return found


@pytest.fixture
def words(tiny: list[str], sets: list[Path]) -> list[str]:
    """The command line of a run on both."""
    place = tiny.index("--data")
    given = [*tiny[:place], *tiny[place + 2 :], *CONSTANT]
    return [*given, "--data", *map(str, sets), "--data-weights", "1", "1.5"]


def weights(run: Path) -> list[str]:
    return [file_hash(run / "last" / f"{name}.safetensors") for name in ("decoder", "optimiser")]


def test_each_set_is_scored_and_the_run_goes_on_exactly(
    words: list[str],
    sets: list[Path],
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here(*words, "--out", "whole") == 0
    said = capsys.readouterr().out
    assert "an epoch draws 38 images, by --data-weights" in said
    run = RunFolder(tmp_path / "whole")
    validations = [line for line in read_metrics(run) if line["kind"] == "validation"]
    assert len(validations) == 2
    for line in validations:
        both = 4 * line["cider/circles"] + 3 * line["cider/squares"]
        assert line["CIDEr"] == pytest.approx(both / 7)
        circles, squares = f"{line['cider/circles']:.4f}", f"{line['cider/squares']:.4f}"
        assert f"CIDEr {line['CIDEr']:.4f} (circles {circles}, squares {squares}), METEOR" in said
    description = run.read_description()
    assert description["config"]["recipe"] == "photographs"
    assert description["config"]["data"] == [str(path) for path in sets]
    assert description["facts"]["counts_by_set"]["squares"] == {"train": 12, "val": 3, "test": 2}
    captions = json.loads(run.captions.read_text())
    assert [(one["dataset"], one["own_id"]) for one in captions][3:5] == [
        ("circles", 23),
        ("squares", 12),
    ]
    assert len({one["image_id"] for one in captions}) == 7

    assert train_here(*words, "--epochs", "1", "--out", "parts") == 0
    assert train_here("--resume", "parts", "--epochs", "2") == 0
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_the_evaluation_finds_the_sets_again(
    words: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    sets: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here(*words, "--epochs", "1", "--out", "run") == 0
    checkpoint, store = str(tmp_path / "run" / "best"), str(tmp_path / "features")
    given = ["--checkpoint", checkpoint, "--feature-store", store, "--out", "scores.json"]
    capsys.readouterr()
    assert evaluate([*given, "--split", "val"]) == 0
    header, *_ = [line for line in capsys.readouterr().out.splitlines() if "together" in line]
    assert header.split() == ["together", "circles", "squares"]
    scores = json.loads(Path("scores.json").read_text())
    assert scores["sets"].keys() == {"circles", "squares"}
    summary = load_checkpoint(tmp_path / "run" / "best").summary
    assert [one["name"] for one in summary["data"]["sets"]] == ["circles", "squares"]

    assert evaluate([*given, "--split", "val", "--data", str(sets[1]), "--captions-out", "c"]) == 0
    assert "sets" not in json.loads(Path("scores.json").read_text())
    assert [one["image_id"] for one in json.loads(Path("c").read_text())] == [12, 13, 14]


def test_a_run_of_an_earlier_version_goes_on(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    words = [*tiny, *CONSTANT]
    assert train_here(*words, "--epochs", "1", "--out", "run") == 0
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    path = tmp_path / "earlier" / "config.json"
    stored = json.loads(path.read_text())
    stored["config"]["data"] = stored["config"]["data"][0]
    stored["config"]["images"] = stored["config"]["images"][0]
    del stored["config"]["data_weights"]
    path.write_text(json.dumps(stored))
    for name in ("run", "earlier"):
        assert train_here("--resume", name, "--epochs", "2") == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "earlier")


def test_the_built_in_sample_beside_others_is_found_again_by_its_name(sets: list[Path]) -> None:
    configured = TrainCoco().configure({"data": ["shapes", str(sets[0])], "p": 0.4})
    assert configured.config.data == ("shapes", str(sets[0]))
    assert configured.config.images == ("", str(sets[0].parent / "images"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data-weights", "1"], "--data-weights has 1 numbers for 2 data sets; give one for eac"),
        (["--data-weights", "1", "0"], "--data-weights is 0.0; it must be above 0"),
        (["--images", "a", "b", "c"], "--images names 3 folders for 2 data sets"),
    ],
)
def test_numbers_that_do_not_fit_the_data_are_refused(
    words: list[str],
    more: list[str],
    message: str,
    train_here: TrainHere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here(*words, *more) == 2
    assert message in capsys.readouterr().err
