"""The command line knows every option, and what is not given comes from the recipe."""

from dataclasses import fields
from pathlib import Path

import pytest

from captioner.errors import OptionError
from captioner.options import flag
from training.arguments import Arguments, build_parser, parse_arguments
from training.config import TrainingConfig
from training.recipes import RECIPES, recipe_for, with_recipe


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


@pytest.mark.parametrize("name", [*RECIPES, "my photographs"])
def test_every_recipe_is_a_valid_configuration(name: str) -> None:
    config = with_recipe({"p": 0.4}, name)
    assert config.p == 0.4
    assert config.lr == recipe_for(name)["lr"]


def test_what_is_given_outranks_the_recipe() -> None:
    assert with_recipe({"lr": 0.5}, "coco").lr == 0.5
    assert with_recipe({}, "coco").lr == 1e-4


def test_the_other_way_to_clip_replaces_that_of_the_recipe() -> None:
    config = with_recipe({"clip_value": 0.2}, "flickr8k")
    assert (config.clip_value, config.clip_norm) == (0.2, 0.0)


def test_a_small_encoder_is_fine_tuned_after_some_epochs_of_any_number() -> None:
    small = {"encoder": "mobilenetv2_100", "encoder_weights": "some.safetensors"}
    config = with_recipe(small, "flickr8k")
    assert config.trains_encoder
    assert 0 < config.frozen_epochs < config.epochs
    for epochs in range(1, 9):
        config = with_recipe({**small, "epochs": epochs}, "my photographs")
        assert [config.trains_encoder_in(epoch) for epoch in range(epochs)][-1]


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "resnet152"},
        {"encoder": "mobilenetv2_100", "encoder_weights": "none"},
        {"encoder": "mobilenetv2_100", "fine_tune_encoder": "none"},
    ],
)
def test_other_encoders_stay_frozen_unless_told(given: dict[str, str]) -> None:
    config = with_recipe(given, "flickr8k")
    assert (config.trains_encoder, config.frozen_epochs, config.random_crop) == (False, 0, 1.0)


def test_another_encoder_does_not_inherit_what_belonged_to_the_recipes() -> None:
    config = with_recipe({"encoder": "mobilenetv2_100"}, "shapes")
    assert config.encoder_weights == "pretrained"
    assert config.encoder_stage is None
    assert not config.trains_encoder
