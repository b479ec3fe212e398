"""A run from the command line to its folder: what it leaves, when it ends, what stops it."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import training.captioning
import training.objectives.cross_entropy
import training.objectives.interface
from captioner.checkpoint import load_checkpoint
from captioner.data.shapes import generate
from captioner.errors import StorageError
from captioner.files import file_hash
from training.run_folder import RunFolder, read_metrics

TrainHere = Callable[..., int]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The mask of every step that is trained from now on."""
    masks: list[Tensor] = []
    sample = training.objectives.interface.sample_keep

    def noted(*arguments: Any, **options: Any) -> Tensor:
        masks.append(sample(*arguments, **options))
        return masks[-1]

    monkeypatch.setattr(training.objectives.interface, "sample_keep", noted)
    return masks


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Values that stand in for the CIDEr of the validations, in their order."""
    values: list[float] = []
    validate = training.captioning.Captioning.validate
    monkeypatch.setattr(
        training.captioning.Captioning,
        "validate",
        lambda *arguments: {**(validate(*arguments) or {}), "CIDEr": values.pop(0)},
    )
    return values


def test_a_run_leaves_all_that_is_promised(
    tiny: list[str], train_here: TrainHere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(*tiny, "--p", "0.4", "--out", "run") == 0
    run = RunFolder(tmp_path / "run")
    stored = json.loads(run.config.read_text())
    assert stored["config"]["p"] == 0.4
    assert stored["facts"]["counts"] == {"train": 40, "val": 6, "test": 6}
    lines = read_metrics(run)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 5),
        ("validation", 5),
        ("train", 10),
        ("validation", 10),
    ]
    assert all("CIDEr" in line for line in lines if line["kind"] == "validation")
    assert all(line["captions_per_second"] > 0 for line in lines if line["kind"] == "train")
    assert any(path.name.startswith("events.out.tfevents") for path in run.events.iterdir())
    for picture in (run.curves, run.samples):
        Image.open(picture).verify()
    captions = json.loads(run.captions.read_text())
    assert len(captions) == 6
    assert all(one["caption"] and len(one["references"]) == 5 for one in captions)
    best = load_checkpoint(run.best)
    assert best.summary["training"]["p"] == 0.4
    assert best.summary["scores_val"]["CIDEr"] == max(
        line["CIDEr"] for line in lines if line["kind"] == "validation"
    )
    assert load_checkpoint(run.last).summary["step"] == 10
    output = capsys.readouterr().out
    for said in ("settings: ", "40 train", "vocabulary: ", "parameters", "evaluate_coco.py"):
        assert said in output


def test_a_frozen_encoder_is_stored_once(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    assert train_here(*tiny, "--out", "run") == 0
    best, last = (tmp_path / "run" / name / "encoder.safetensors" for name in ("best", "last"))
    assert best.stat().st_ino == last.stat().st_ino


def test_joint_training_moves_the_encoder(
    tiny_joint: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    assert train_here(*tiny_joint, "--epochs", "1", "--out", "one") == 0
    assert train_here(*tiny_joint, "--epochs", "2", "--out", "two") == 0
    hashes = {file_hash(tmp_path / run / "last" / "encoder.safetensors") for run in ("one", "two")}
    assert len(hashes) == 2


def test_p_changes_masks_but_neither_start_nor_data(
    tiny: list[str], train_here: TrainHere, tmp_path: Path, kept: list[Tensor]
) -> None:
    # A learning rate this small leaves the weights where they began, so losses tell the data.
    still = ["--lr", "1e-30", "--epochs", "1", "--dropout", "0"]
    losses = {}
    for p in ("0", "0.4", "1"):
        assert train_here(*tiny, *still, "--p", p, "--out", f"run{p}") == 0
        losses[p] = [line["loss"] for line in read_metrics(RunFolder(tmp_path / f"run{p}"))[:1]]
    assert losses["0"] == losses["0.4"] == losses["1"]
    shares = [float(torch.cat(kept[start : start + 5]).mean()) for start in (0, 5, 10)]
    assert shares[0] == 1.0
    assert 0.3 < shares[1] < 0.9
    assert shares[2] == 0.0


def test_the_last_epochs_do_not_detach(
    tiny: list[str], train_here: TrainHere, kept: list[Tensor]
) -> None:
    assert train_here(*tiny, "--p", "1", "--epochs", "3", "--anneal-epochs", "2") == 0
    assert [float(mask.mean()) for mask in kept] == [0.0] * 5 + [1.0] * 10


def test_training_ends_when_nothing_gets_better(
    tiny: list[str],
    train_here: TrainHere,
    scores: list[float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores += [0.1, 0.3, 0.2, 0.3, 0.9]
    assert train_here(*tiny, "--epochs", "5", "--patience", "2", "--out", "run") == 0
    assert scores == [0.9]
    assert load_checkpoint(tmp_path / "run" / "best").summary["step"] == 10
    assert "no better CIDEr for as many validations" in capsys.readouterr().out


def test_validation_can_come_every_few_steps(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    assert train_here(*tiny, "--validate-every", "4", "--out", "run") == 0
    lines = read_metrics(RunFolder(tmp_path / "run"))
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [4, 8, 10]


def test_the_averaged_weights_are_the_best_ones(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    averaged = [*tiny, "--average-decay", "0.99", "--epochs", "1"]
    assert train_here(*averaged, "--out", "run") == 0
    assert train_here(*tiny, "--epochs", "1", "--out", "plain") == 0
    best, last, plain = (
        file_hash(tmp_path / path / "decoder.safetensors")
        for path in ("run/best", "run/last", "plain/last")
    )
    assert last == plain
    assert best != last


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compute, calls = training.objectives.cross_entropy.caption_loss, iter(range(100))

    def poisoned(*arguments: Any, **options: Any) -> Tensor:
        loss = compute(*arguments, **options)
        return loss * float("nan") if next(calls) == 7 else loss

    monkeypatch.setattr(training.objectives.cross_entropy, "caption_loss", poisoned)
    assert train_here(*tiny, "--out", "run") == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("train_coco.py: the loss is nan at step 8; the last good checkpoint is")
    assert str(Path("run", "last")) in line
    assert load_checkpoint(tmp_path / "run" / "last").summary["step"] == 5


def test_weights_that_blow_up_are_not_saved(
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here(*tiny, "--clip-value", "1e30", "--lr", "1e38", "--out", "run") == 2
    error = capsys.readouterr().err
    assert "there is no checkpoint yet" in error
    assert not (tmp_path / "run" / "last").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save, calls = training.captioning.save_checkpoint, iter(range(100))

    def full(folder: Path, **options: Any) -> None:
        if next(calls) >= 2:  # best/ and last/ of the first validation go well
            raise StorageError(f"{folder} could not be written: {errno.errorcode[errno.ENOSPC]}")
        save(folder, **options)

    monkeypatch.setattr(training.captioning, "save_checkpoint", full)
    assert train_here(*tiny, "--out", "run") == 2
    assert "could not be written: ENOSPC" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run" / "last").summary["step"] == 5


def test_too_little_space_is_found_before_the_work(
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert train_here(*tiny, "--out", "run") == 2
    assert "free some space, or give another --out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("encoder", ["frozen", "joint"])
def test_a_broken_image_is_named_skipped_and_counted(
    encoder: str,
    tiny: list[str],
    tiny_joint: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    json_path = generate(tmp_path / "sample", seed=1, sizes=(20, 6, 4))
    images = sorted((tmp_path / "sample" / "images").iterdir())
    for broken in (images[3], images[22]):  # one to train on, one to validate with
        broken.write_bytes(broken.read_bytes()[:200])
    words = [*(tiny if encoder == "frozen" else tiny_joint), "--data", str(json_path)]
    assert train_here(*words, "--out", "run") == 0
    output = capsys.readouterr().out
    skipped = [line for line in output.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2
    assert images[3].name in skipped[0]
    assert images[22].name in skipped[1]
    assert len(json.loads((tmp_path / "run" / "captions_val.json").read_text())) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--p 1.5", "--p is 1.5; a probability lies between 0 and 1"),
        ("--data nowhere", "there is no data set nowhere"),
        ("--encoder resnet10000", "timm has no network 'resnet10000'"),
        ("--encoder-weights nowhere.pth", "nowhere.pth"),
        ("--device cuda:99", "device is 'cuda:99'"),
        ("--resume nowhere", "no run to go on with"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: str,
    message: str,
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = words.split() if "--resume" in words else [*tiny, *words.split(), "--out", "run"]
    assert train_here(*given) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("train_coco.py: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_not_overwritten(
    tiny: list[str], train_here: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(*tiny, "--epochs", "1", "--out", "run") == 0
    assert train_here(*tiny, "--out", "run") == 2
    assert "--out run is not empty; go on with it by --resume run" in capsys.readouterr().err


def test_a_finished_run_says_so_again_and_goes_on_with_more_epochs(
    tiny: list[str], train_here: TrainHere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(*tiny, "--out", "run") == 0
    capsys.readouterr()
    assert train_here("--resume", "run") == 0
    assert "all epochs are done" in capsys.readouterr().out
    assert train_here("--resume", "run", "--epochs", "3") == 0
    assert load_checkpoint(tmp_path / "run" / "last").summary["step"] == 15
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["epochs"] == 3


def test_other_data_cannot_take_the_place_of_a_runs_own(
    tiny: list[str], train_here: TrainHere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(*tiny, "--epochs", "1", "--out", "run") == 0
    other = generate(tmp_path / "other", seed=5, sizes=(40, 6, 6))
    assert train_here("--resume", "run", "--epochs", "2", "--data", other) == 2
    assert "have changed since" in capsys.readouterr().err
