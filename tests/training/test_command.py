"""The command line knows every option and refuses what cannot be."""

from dataclasses import fields
from pathlib import Path

import pytest

from captioner.errors import OptionError
from captioner.options import flag
from training.command import Arguments, build_parser, parse_arguments
from training.config import TrainingConfig
from training.run_folder import RunFolder
from training.train_coco import TrainCoco


def parsed(line: str) -> Arguments:
    return parse_arguments(TrainCoco(), line.split())


def test_every_option_has_a_flag_with_help() -> None:
    parser = build_parser(TrainCoco())
    actions = {word: action for action in parser._actions for word in action.option_strings}
    for item in fields(TrainingConfig.composed({})):
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


def test_a_size_that_only_another_decoder_has_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "--decoder show_tell --attention-size 16 --hidden-size 8"
    assert parsed(line).given == {"decoder": "show_tell", "hidden_size": 8}
    assert capsys.readouterr().err == "--attention-size is left out: no part of this run has it\n"


@pytest.mark.parametrize("words", ["--p 1.5", "--p nan", "--epochs 0", "--lr -1"])
def test_a_bad_value_is_refused_before_any_data_is_read(words: str) -> None:
    with pytest.raises(OptionError, match=words.split()[0]):
        TrainCoco().configure(parsed(words).given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--decoder gru", "--decoder is 'gru'; it can be soft_attention or show_tell"),
        ("--objective fame", "--objective is 'fame'; it can be cross_entropy"),
        (
            "--decoder show_tell --detach-attention",
            "--detach-attention is an option of --decoder soft_attention, and the decoder is",
        ),
        ("--warp 9", "unrecognized arguments: --warp 9; --help lists the options"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'; --help lists"),
    ],
)
def test_what_is_no_option_is_one_line(words: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parsed(words)


def test_resuming_takes_only_what_leaves_the_run_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder(Path("runs/x")).write_config(TrainingConfig.from_json({"p": 0.4}), {})
    arguments = parsed("--resume runs/x --epochs 9 --device cpu --threads 2")
    assert arguments.resume is not None
    assert arguments.stored["p"] == 0.4
    assert arguments.given == {"epochs": 9, "device": "cpu", "threads": 2}
    with pytest.raises(OptionError, match=r"--lr, --p cannot be changed when a run is resumed"):
        parsed("--resume runs/x --lr 1e-3 --p 0.1")
    with pytest.raises(OptionError, match="--out and --resume exclude each other"):
        parsed("--resume runs/x --out runs/y")


def test_a_run_belongs_to_its_program_by_whatever_name_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("runs/x"))
    folder.write_config(TrainingConfig.from_json({}), {"script": "train_coco.py"})
    assert parse_arguments(TrainCoco("captioner train"), ["--resume", "runs/x"]).resume is not None
    folder.write_config(TrainingConfig.from_json({}), {"script": "copying.py"})
    with pytest.raises(OptionError, match=r"that run was begun by copying\.py"):
        parsed("--resume runs/x")
