"""Recipes: good settings for a data set, each under a name that `--recipe` takes.

A recipe fills in what the user did not give. The values for COCO are those of the h-detach
authors' captioning branch where they are known (Adam 1e-4, batches of 10 images with 5 captions,
gradients clamped at 0.1, 30 epochs, captions cut at 16 words); the others were measured here,
see `docs/results`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from captioner.encoder.config import NONE
from captioner.errors import OptionError
from training.objectives import OBJECTIVES

SEVERAL = "photographs"  # name of the recipe of several sets together
_FROZEN_SHARE = 1 / 3  # of the epochs in which an encoder is fine-tuned

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


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that go well together: values of options by their names."""

    name: str
    options: Mapping[str, Any]
    fine_tuning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further options for encoders that are worth fine-tuning, by timm's name without the tag."""

    def options_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the recipe sets where the user gave these options."""
        dropped = {name for one in given for name in _BELONGS_TO.get(one, ())}
        kept = {name: value for name, value in self.options.items() if name not in dropped}
        found = {**kept, **self._fine_tuning(given), "recipe": self.name}
        return {name: value for name, value in found.items() if name not in given}

    def _fine_tuning(self, given: Mapping[str, Any]) -> dict[str, Any]:
        is_decided = given.keys() & {"fine_tune_encoder", "start_from"}
        if is_decided or given.get("encoder_weights") == NONE:
            return {}
        architecture = given.get("encoder", "").split(".")[0]
        found = dict(self.fine_tuning.get(architecture, {}))
        if found:
            epochs = given.get("epochs", found["epochs"])
            found["frozen_epochs"] = int(epochs * _FROZEN_SHARE)
        return found


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
_FINE_TUNED_ON_SMALL_SETS: Mapping[str, Mapping[str, Any]] = {
    "mobilenetv2_100": {
        "fine_tune_encoder": "4",
        "encoder_lr": 3e-4,
        "random_crop": 0.5,
        "epochs": 12,
    }
}

# The photographs of Flickr8k at hand were squeezed to squares of this side, so those to be
# captioned must be squeezed too, and so must those of other sets that are learned with them.
_SQUEEZED: dict[str, Any] = {"image_size": 224, "image_mode": "squash"}

_ALL = (
    Recipe(
        name="coco",
        options={
            "lr": 1e-4,
            "clip_value": 0.1,
            "batch_size": 10,
            "epochs": 30,
            "max_caption_length": 16,
        },
    ),
    Recipe(
        name="flickr8k",
        options={**_SMALL_PHOTOGRAPHS, **_SQUEEZED},
        fine_tuning=_FINE_TUNED_ON_SMALL_SETS,
    ),
    Recipe(name="flickr30k", options=_SMALL_PHOTOGRAPHS, fine_tuning=_FINE_TUNED_ON_SMALL_SETS),
    Recipe(
        name=SEVERAL,
        options={**_SMALL_PHOTOGRAPHS, **_SQUEEZED, "content_words_once": True},
        fine_tuning=_FINE_TUNED_ON_SMALL_SETS,
    ),
    Recipe(
        name="own_photographs", options=_SMALL_PHOTOGRAPHS, fine_tuning=_FINE_TUNED_ON_SMALL_SETS
    ),
    Recipe(
        name="shapes",
        options={
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
    ),
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})


def recipe_for(dataset_name: str) -> Recipe:
    """Return the recipe of a data set: that of its name, else the one for own photographs."""
    return RECIPES.get(dataset_name, RECIPES["own_photographs"])


def with_recipe(given: Mapping[str, Any], dataset_name: str) -> dict[str, Any]:
    """Return what was given, and what its recipe, else the data set's, sets beside it.

    What the objective asks for counts more than the recipe, which was made for cross-entropy. Not
    every decoder has all of the options.

    Raises:
        OptionError: there is no such recipe.
    """
    name = given.get("recipe") or recipe_for(dataset_name).name
    if name not in RECIPES:
        raise OptionError(f"--recipe is {name!r}; it can be {' or '.join(RECIPES)}")
    found = RECIPES[name].options_beside(given)
    objective = OBJECTIVES.get(given.get("objective", ""))
    return {**found, **(objective.settings if objective else {}), **given}


def check_with_any_recipe(
    given: Mapping[str, Any], check: Callable[[dict[str, Any]], object]
) -> None:
    """Raise the OptionError of `check` if given options fail it whatever the data set is."""
    problem = None
    for name in RECIPES:
        try:
            check(with_recipe(given, name))
        except OptionError as found:
            problem = found
        else:
            return
    assert problem is not None
    raise problem
