"""The configuration refuses what cannot work, in one line that names value and remedy."""

from typing import Any

import pytest

from captioner.errors import OptionError
from training.config import TrainingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"p": 1.5}, r"--p is 1\.5; a probability lies between 0 and 1"),
        ({"p": float("nan")}, r"--p is nan; it must be a finite number"),
        ({"lr": -1.0}, r"--lr is -1\.0; it must be above 0"),
        ({"encoder_lr": 0.0}, r"--encoder-lr is 0\.0; it must be above 0"),
        ({"epochs": 0}, r"--epochs is 0; it must be at least 1"),
        ({"grid": 0}, r"--grid is 0; it must be at least 1"),
        ({"weight_decay": -0.1}, r"--weight-decay is -0\.1; it cannot be negative"),
        ({"seed": -1}, r"--seed is -1; it cannot be negative"),
        ({"dropout": 1.0}, r"--dropout is 1\.0; it must be at least 0 and below 1"),
        ({"decoder": "gru"}, r"--decoder is 'gru'; it can be soft_attention or show_tell"),
        ({"image_mode": "zoom"}, r"--image-mode is 'zoom'; it can be squash or crop or whole"),
        ({"epochs": "3"}, r"--epochs is '3'; it must be a int"),
        ({"fine_tune_encoder": "0"}, r"--fine-tune-encoder is '0'; it can be all, none, or the"),
        ({"clip_norm": 1.0, "clip_value": 0.1}, r"give one of them, and 0 for the other"),
        ({"random_crop": 0.5}, r"--random-crop needs --fine-tune-encoder"),
        ({"frozen_epochs": 2}, r"--frozen-epochs is 2 of 12 epochs with --fine-tune-encoder none"),
        (
            {"frozen_epochs": 4, "epochs": 4, "fine_tune_encoder": "all"},
            r"--frozen-epochs is 4 of 4 epochs .*; leave at least one epoch",
        ),
        ({"random_crop": 1.2}, r"--random-crop is 1\.2; the share of the area"),
        ({"p": 0.4, "epochs": 5, "anneal_epochs": 5}, r"--p 0\.4 would never be in force"),
        ({"decoder": "show_tell", "attention_regulariser": 1.0}, r"show_tell has none"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        TrainingConfig.from_json(values)
    assert "\n" not in str(caught.value)


def test_the_stored_form_gives_the_same_configuration() -> None:
    config = TrainingConfig.from_json(
        {"p": 0.4, "fine_tune_encoder": "2", "image_size": 64, "label_smoothing": 0.2}
    )
    assert config.to_json()["label_smoothing"] == 0.2
    assert TrainingConfig.from_json(config.to_json()) == config


def test_an_option_of_another_version_is_named() -> None:
    with pytest.raises(OptionError, match="unknown options: warp"):
        TrainingConfig.from_json({"warp": 9})


@pytest.mark.parametrize(
    ("given", "stages", "is_trained"), [("all", None, True), ("2", 2, True), ("none", None, False)]
)
def test_stages_to_train(given: str, stages: int | None, is_trained: bool) -> None:
    config = TrainingConfig(fine_tune_encoder=given)
    assert config.trains_encoder is is_trained
    if is_trained:
        assert config.trained_stages == stages


def test_the_encoder_learns_more_slowly_unless_it_starts_from_nothing() -> None:
    assert TrainingConfig(lr=1e-3).effective_encoder_lr == pytest.approx(1e-4)
    assert TrainingConfig(lr=1e-3, encoder_weights="none").effective_encoder_lr == 1e-3
    assert TrainingConfig(lr=1e-3, encoder_lr=7e-6).effective_encoder_lr == 7e-6
