"""Recipes: what each sets, what a user's options replace, how one is chosen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from captioner.errors import OptionError
from training.config import TrainingConfig
from training.recipes import RECIPES, check_with_any_recipe, recipe_for, with_recipe


def configuration(given: Mapping[str, Any], dataset_name: str) -> TrainingConfig:
    return TrainingConfig.from_json(with_recipe(given, dataset_name))


@pytest.mark.parametrize("name", [*RECIPES, "my photographs"])
def test_every_recipe_is_a_valid_configuration(name: str) -> None:
    config = configuration({"p": 0.4}, name)
    assert config.p == 0.4
    assert config.recipe == (name if name in RECIPES else "own_photographs")
    assert config.lr == recipe_for(name).options["lr"]


def test_a_recipe_can_be_chosen_by_its_name() -> None:
    config = configuration({"recipe": "shapes"}, "my photographs")
    assert (config.recipe, config.encoder, config.epochs) == ("shapes", "resnet10t", 11)
    with pytest.raises(OptionError, match="--recipe is 'cocos'; it can be coco or flickr8k or"):
        with_recipe({"recipe": "cocos"}, "coco")


def test_options_that_a_decoder_lacks_are_left_out() -> None:
    assert configuration({}, "shapes").to_json()["attention_size"] == 128
    assert "attention_size" not in configuration({"decoder": "show_tell"}, "shapes").to_json()


def test_another_learning_rate_in_a_recipe_does_not_end_its_fine_tuning() -> None:
    small = RECIPES["flickr8k"]
    changed = replace(small, options={**small.options, "lr": 1e-5})
    given = {"encoder": "mobilenetv2_100"}
    expected = {**small.options_beside(given), "lr": 1e-5}
    assert changed.options_beside(given) == expected
    assert expected["fine_tune_encoder"] == "4"


def test_the_tag_of_an_encoder_does_not_change_its_recipe() -> None:
    names = ("mobilenetv2_100", "mobilenetv2_100.ra_in1k")
    plain, tagged = (with_recipe({"encoder": name}, "flickr8k") for name in names)
    assert plain["fine_tune_encoder"] == "4"
    assert {**tagged, "encoder": names[0]} == plain


def test_what_is_given_outranks_the_recipe() -> None:
    assert configuration({"lr": 0.5}, "coco").lr == 0.5
    assert configuration({}, "coco").lr == 1e-4


def test_the_other_way_to_clip_replaces_that_of_the_recipe() -> None:
    config = configuration({"clip_value": 0.2}, "flickr8k")
    assert (config.clip_value, config.clip_norm) == (0.2, 0.0)


def test_a_small_encoder_is_fine_tuned_after_some_epochs_of_any_number() -> None:
    small = {"encoder": "mobilenetv2_100", "encoder_weights": "some.safetensors"}
    config = configuration(small, "flickr8k")
    assert config.trains_encoder
    assert 0 < config.frozen_epochs < config.epochs
    for epochs in range(1, 9):
        config = configuration({**small, "epochs": epochs}, "my photographs")
        assert config.trains_encoder
        assert config.frozen_epochs < epochs


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "resnet152"},
        {"encoder": "mobilenetv2_100", "encoder_weights": "none"},
        {"encoder": "mobilenetv2_100", "fine_tune_encoder": "none"},
    ],
)
def test_other_encoders_stay_frozen_unless_told(given: dict[str, str]) -> None:
    config = configuration(given, "flickr8k")
    assert (config.trains_encoder, config.frozen_epochs, config.random_crop) == (False, 0, 1.0)


def test_another_encoder_does_not_inherit_what_belonged_to_the_recipes() -> None:
    config = configuration({"encoder": "mobilenetv2_100"}, "shapes")
    assert config.encoder_weights == "pretrained"
    assert config.encoder_stage is None
    assert not config.trains_encoder


def test_what_is_wrong_with_every_recipe_is_said_before_any_data_is_read() -> None:
    check_with_any_recipe(
        {"frozen_epochs": 2, "fine_tune_encoder": "all"}, TrainingConfig.from_json
    )
    with pytest.raises(OptionError, match="--random-crop needs --fine-tune-encoder"):
        check_with_any_recipe(
            {"random_crop": 0.5, "fine_tune_encoder": "none"}, TrainingConfig.from_json
        )
