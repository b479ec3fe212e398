"""The command line knows every option and refuses what cannot be."""

from dataclasses import fields
from pathlib import Path

import pytest

from captioner.errors import OptionError
from captioner.options import flag
from training.arguments import Arguments, build_parser, parse_arguments
from training.config import TrainingConfig


def parsed(line: str) -> Arguments:
    return parse_arguments(line.split())


def test_every_option_has_a_flag_with_help() -> None:
    actions = {word: action for action in build_parser()._actions for word in action.option_strings}
    for item in fields(TrainingConfig):
        assert actions[flag(item.name)].help
    assert all(action.help for action in actions.values())


def test_flags_become_options_and_nothing_else_is_given() -> None:
    arguments = parsed(
        "--p 0.4 --no-restval --fine-tune-encoder --epochs 3 --image-size 64 --out runs/x"
    )
    assert arguments.given == {
        "p": 0.4,
        "restval": False,
        "fine_tune_encoder": "all",
        "epochs": 3,
        "image_size": 64,
    }
    assert arguments.out == Path("runs/x")
    assert arguments.resume is None


@pytest.mark.parametrize("words", ["--p 1.5", "--p nan", "--epochs 0", "--lr -1"])
def test_a_bad_value_is_refused_before_any_data_is_read(words: str) -> None:
    with pytest.raises(OptionError, match=words.split()[0]):
        parsed(words)


@pytest.mark.parametrize("words", ["--decoder gru", "--warp 9", "--epochs many"])
def test_what_is_no_option_leaves_with_status_2(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parsed(words)
    assert left.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_resuming_takes_only_what_leaves_the_run_the_same() -> None:
    arguments = parsed("--resume runs/x --epochs 9 --device cpu --threads 2")
    assert arguments.given == {"epochs": 9, "device": "cpu", "threads": 2}
    with pytest.raises(OptionError, match=r"--lr, --p cannot be changed when a run is resumed"):
        parsed("--resume runs/x --lr 1e-3 --p 0.1")
    with pytest.raises(OptionError, match="--out and --resume exclude each other"):
        parsed("--resume runs/x --out runs/y")
