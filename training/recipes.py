"""Good settings per data set, in one place.

A recipe fills in what the user did not give. The values for COCO are those of the h-detach
authors' captioning branch where they are known (Adam 1e-4, batches of 10 images with 5 captions,
gradients clamped at 0.1, 30 epochs, captions cut at 16 words); the others were measured here,
see `docs/results`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from captioner.checkpoint import Checkpoint
from captioner.encoder.config import NONE
from captioner.errors import CheckpointError, OptionError
from captioner.options import flag
from training.config import TrainingConfig

_SMALL_PHOTOGRAPHS: dict[str, Any] = {
    "feature_embedding_size": 512,
    "lr": 7e-4,
    "lr_schedule": "cosine",
    "warmup_steps": 100,
    "label_smoothing": 0.1,
    "average_decay": 0.999,
    "horizontal_flip": True,
    "clip_norm": 5.0,
    "batch_size": 25,
    "epochs": 16,
}

# An encoder as small as this one can be fine-tuned on two cores within the hour, on photographs
# of a small set. The first epochs, with stored features, cost half as much and spare it the
# gradients of an untrained decoder.
_FINE_TUNED_ON_SMALL_SETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mobilenetv2_100": {
            "fine_tune_encoder": "4",
            "encoder_lr": 3e-4,
            "random_crop": 0.5,
            "epochs": 12,
        }
    }
)
_FROZEN_SHARE = 1 / 3  # of their epochs

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "coco": {
            "lr": 1e-4,
            "clip_value": 0.1,
            "batch_size": 10,
            "epochs": 30,
            "max_caption_length": 16,
        },
        "flickr8k": {
            **_SMALL_PHOTOGRAPHS,
            "image_size": 224,  # the photographs at hand were squeezed to squares of this side,
            "image_mode": "squash",  # so those to be captioned must be squeezed too
        },
        "flickr30k": _SMALL_PHOTOGRAPHS,
        "shapes": {
            "encoder": "resnet10t",
            "encoder_weights": "none",
            "encoder_stage": 2,  # at 56 pixels a map of 7 x 7
            "fine_tune_encoder": "all",
            "image_size": 56,
            "image_mode": "squash",
            "horizontal_flip": True,
            "hidden_size": 256,
            "embedding_size": 128,
            "attention_size": 128,
            "dropout": 0.0,
            "min_count": 1,
            "lr": 1e-3,
            "encoder_lr": 1e-3,
            "lr_schedule": "cosine",
            "warmup_steps": 50,
            "clip_norm": 5.0,
            "batch_size": 10,
            "captions_per_image": 2,  # of the five, anew each time: more steps for the encoder
            "epochs": 11,
            "validate_every": 1100,
        },
    }
)
OWN_PHOTOGRAPHS: Mapping[str, Any] = MappingProxyType(_SMALL_PHOTOGRAPHS)

# What a recipe says about the right-hand options was chosen together with the left-hand one, so
# it falls when the user gives the latter.
_BELONGS_TO: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "encoder": ("encoder_weights", "encoder_stage", "fine_tune_encoder", "image_size"),
        "encoder_weights": ("fine_tune_encoder",),
        "clip_value": ("clip_norm",),
        "clip_norm": ("clip_value",),
    }
)


def recipe_for(dataset_name: str) -> Mapping[str, Any]:
    """Return the settings for a data set of this name; unknown names are own photographs."""
    return RECIPES.get(dataset_name, OWN_PHOTOGRAPHS)


def with_recipe(given: Mapping[str, Any], dataset_name: str) -> TrainingConfig:
    """Return the effective configuration: what was given, then the recipe, then the defaults.

    Raises:
        OptionError: a value is out of range, or two contradict each other.
    """
    dropped = {name for word in given for name in _BELONGS_TO.get(word, ())}
    recipe = {
        name: value for name, value in recipe_for(dataset_name).items() if name not in dropped
    }
    return TrainingConfig(**{**recipe, **_fine_tuning(given, dataset_name), **given})


def _fine_tuning(given: Mapping[str, Any], dataset_name: str) -> dict[str, Any]:
    """Return what the recipe says where the encoder can be fine-tuned and nobody said otherwise."""
    is_small_set = recipe_for(dataset_name).items() >= _SMALL_PHOTOGRAPHS.items()
    is_decided = given.keys() & {"fine_tune_encoder", "start_from"}
    if not is_small_set or is_decided or given.get("encoder_weights") == NONE:
        return {}
    found = dict(_FINE_TUNED_ON_SMALL_SETS.get(given.get("encoder", ""), {}))
    if found:
        epochs = given.get("epochs", found["epochs"])
        found["frozen_epochs"] = int(epochs * _FROZEN_SHARE)
    return found


_OF_THE_MODEL = (
    "min_count",
    "encoder",
    "encoder_weights",
    "encoder_stage",
    "grid",
    "image_size",
    "image_mode",
    "decoder",
    "hidden_size",
    "embedding_size",
    "attention_size",
    "feature_embedding_size",
    "dropout",
    "detach_attention",
)


def with_model_of(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, and the options that made the checkpoint's model.

    Raises:
        OptionError: an option of the model was given with another value.
        CheckpointError: the checkpoint does not say how it was trained.
    """
    trained = checkpoint.summary.get("training")
    if trained is None:
        raise CheckpointError(
            f"{checkpoint.folder} does not say how it was trained; start from one that "
            "train_coco.py wrote"
        )
    model = {name: trained[name] for name in _OF_THE_MODEL if name in trained}
    for name, value in model.items():
        if name in given and given[name] != value:
            raise OptionError(
                f"{flag(name)} is {given[name]} and that of {checkpoint.folder} is {value}; a run "
                "that starts from a checkpoint keeps its model"
            )
    start_from = str(checkpoint.folder.resolve())
    return {**model, **given, "start_from": start_from}


def check_with_any_recipe(given: Mapping[str, Any]) -> None:
    """Raise OptionError if what was given is wrong with every recipe, so whatever the data set."""
    problem = None
    for name in (*RECIPES, "own photographs"):
        try:
            with_recipe(given, name)
        except OptionError as found:
            problem = found
        else:
            return
    assert problem is not None
    raise problem
