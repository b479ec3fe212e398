"""The command lines: every bad input is one line with its remedy, status 2, and no folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training import copying, sequential_mnist
from training.command import build_parser
from training.methods import method_names

Copy = Callable[..., int]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--p 1.5", "--p is 1.5; a probability lies between 0 and 1"),
        ("--cell-p nan", "--cell-p is nan; it must be a finite number"),
        ("--delay 0", "--delay is 0; it must be at least 1"),
        ("--transfer 200 0", "--transfer is 0; it must be at least 1"),
        ("--lr 0", "--lr is 0.0; it must be above 0"),
        ("--clip -1", "--clip is -1.0; it cannot be negative"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'; --help lists the options"),
        ("--model gru", "--model is 'gru'; it can be"),
        ("--warp 9", "unrecognized arguments: --warp 9; --help lists the options"),
        ("--zoneout-c 0.1", "--zoneout-c is an option of --model zoneout, and the model is lstm"),
        ("--model irnn --p 0.2", "--p is an option of --model lstm, and the model is irnn"),
        ("--anneal-epochs 3 --epochs 3 --p 0.2", "--anneal-epochs is 3 of 3 epochs"),
        ("--model irnn --anneal-epochs 3", "--anneal-epochs is 3, but irnn detaches nothing"),
        ("--damping", "--damping is given with --p 0"),
        ("--bidirectional", "--bidirectional is for sequences that are classified as a whole"),
        ("--device tpu9", "device is 'tpu9'"),
        ("--resume nowhere", "--resume nowhere: there is no config.json"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: str, message: str, copy_here: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert copy_here(*words.split()) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("copying.py: ")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mnist nowhere", "MNIST is not in nowhere"),
        ("--permutation order.txt", "--permutation order.txt cannot be read: No such file"),
        ("--p 1.5", "--p is 1.5; a probability lies between 0 and 1"),
    ],
)
def test_the_same_of_mnist(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sequential_mnist.main(words.split()) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("sequential_mnist.py: ")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_takes_only_what_leaves_it_the_same(
    copy_here: Copy, tiny_copying: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert copy_here(*tiny_copying, "--epochs", "1", "--out", "run") == 0
    capsys.readouterr()
    for words, message in (
        ("--lr 1 --p 0.5", "--lr, --p cannot be changed when a run is resumed; only"),
        ("--model irnn", "--model cannot be changed when a run is resumed"),
        ("--out other", "--out and --resume exclude each other"),
        ("--zoneout-c 0.1", "--zoneout-c is an option of --model zoneout"),
    ):
        assert copy_here("--resume", "run", *words.split()) == 2
        assert message in capsys.readouterr().err
    assert copy_here("--out", "run") == 2
    assert "go on with it by --resume run" in capsys.readouterr().err
    assert sequential_mnist.main(["--resume", "run"]) == 2
    assert "that run was begun by copying.py" in capsys.readouterr().err
    assert copy_here("--resume", "run", "--epochs", "2") == 0
    said = capsys.readouterr().out
    assert "training is over after 2 epochs" in said
    assert "note:" not in said


def test_what_more_epochs_put_off_is_told(
    copy_here: Copy, tiny_copying: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--p", "0.4", "--anneal-epochs", "1", "--epochs", "2", "--out", "run"]
    assert copy_here(*tiny_copying, *words) == 0
    capsys.readouterr()
    assert copy_here("--resume", "run", "--epochs", "3") == 0
    assert (
        "note: the end of detaching (--anneal-epochs 1) followed 2 epochs so far and follows 3 "
        "from here on; a run begun with --epochs 3 ends otherwise\n"
    ) in capsys.readouterr().out


def test_a_loss_that_is_no_number_is_one_line(
    copy_here: Copy, tiny_copying: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert copy_here(*tiny_copying, "--lr", "1e38", "--clip", "0", "--out", "run") == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if "updates" not in line]
    assert len(complaint) == 1
    assert "there is no checkpoint yet" in complaint[0]
    assert "lower --lr, or bound the gradients by --clip 1" in complaint[0]
    assert not (tmp_path / "run" / "last").exists()


def test_a_run_leaves_all_its_files(
    copy_here: Copy, tiny_copying: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert copy_here(*tiny_copying, "--p", "0.25", "--epochs", "1", "--seed", "4") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("copying4-lstm-p0.25-seed4-")
    names = {path.name for path in run.iterdir()} - {".lock"}
    assert names == {
        *("config.json", "metrics.jsonl", "result.json", "curves.png"),
        *("best", "last", "events"),
    }
    config = json.loads((run / "config.json").read_text())
    assert config["script"] == "copying.py"
    assert config["config"]["p"] == 0.25
    assert config["config"]["delay"] == 4
    said = capsys.readouterr().out
    assert "p 0.25" in said
    assert f"everything lies in {run.relative_to(tmp_path)}" in said


@pytest.mark.parametrize(
    "options",
    [
        "--p 0.25 --layers 2 --layer-masks independent",
        "--p 0.25 --damping",
        "--cell-p 0.5 --anneal-epochs 1",
        "--one-hot --clip 0 --p 1",
        "--model zoneout --p 0.25 --zoneout-h 0.1",
    ],
)
def test_every_ablation_runs_by_its_flags(
    options: str, copy_here: Copy, tiny_copying: list[str], tmp_path: Path
) -> None:
    assert copy_here(*tiny_copying, "--epochs", "2", *options.split(), "--out", "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["outcome"], result["epochs"]) == ("finished", 2.0)


@pytest.mark.parametrize("model", method_names())
@pytest.mark.parametrize("script", [copying.SCRIPT, sequential_mnist.SCRIPT])
def test_every_option_has_help_whatever_the_model(script: object, model: str) -> None:
    parser = build_parser(script, {"model": model})  # type: ignore[arg-type]
    assert all(action.help for action in parser._actions)
