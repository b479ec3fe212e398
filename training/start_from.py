"""Options of a run that starts from another run's weights: those of its model are inherited."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from captioner.checkpoint import Checkpoint
from captioner.errors import CheckpointError, OptionError
from captioner.options import flag

_OF_THE_MODEL = (  # and the decoder's own options
    "min_count",
    "encoder",
    "encoder_weights",
    "encoder_stage",
    "grid",
    "image_size",
    "image_mode",
    "decoder",
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
    of_the_decoder = [item.name for item in fields(checkpoint.decoder.Options)]
    model = {name: trained[name] for name in (*_OF_THE_MODEL, *of_the_decoder) if name in trained}
    for name, value in model.items():
        if name in given and given[name] != value:
            raise OptionError(
                f"{flag(name)} is {given[name]} and that of {checkpoint.folder} is {value}; a run "
                "that starts from a checkpoint keeps its model"
            )
    start_from = str(checkpoint.folder.resolve())
    return {**model, **given, "start_from": start_from}
