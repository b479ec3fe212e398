"""Encoder configuration: the options of an encoder and the preprocessing that follows from them.

Options that are not given are timm's for the network, so pretrained weights see images as they did
in their training.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import EncoderError
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, option

PRETRAINED, NONE = "pretrained", "none"  # the values of `weights` that are not a file
_TIMM_CROP_MODES = {"center": "crop", "squash": "squash"}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Options):
    """Which network, with which weights, seen at which size and pooled to which grid."""

    name: str = option("resnet152", "any timm model", metavar="NAME")
    weights: str = option(
        PRETRAINED, "pretrained, none (random), or a .safetensors or .pth file", metavar="WEIGHTS"
    )
    grid: int = option(
        7, "side of the square grid that the feature map is pooled to", within=AT_LEAST_ONE
    )
    image_size: int | None = option(
        None, "side of the encoder's input; default: the encoder's own", within=AT_LEAST_ONE
    )
    image_mode: str | None = option(
        None,
        "how an image becomes the input; default: the encoder's own",
        choices=("squash", "crop", "whole"),
    )
    stage: int | None = option(
        None,
        "take the feature map of this stage of the encoder, counted from 0; default: the last one",
        metavar="N",
        within=NOT_NEGATIVE,
    )

    def contradictions(self) -> Iterable[str]:
        if not self.name or not self.weights:
            yield "encoder and encoder_weights must not be empty"


def preprocessing_for(config: EncoderConfig, stated: dict[str, Any]) -> Preprocessing:
    """Return what timm states for the network, changed where the configuration says so.

    Raises:
        EncoderError: what timm states is not supported, and the configuration does not replace it.
    """
    _, height, width = stated["input_size"]
    mode = config.image_mode or _TIMM_CROP_MODES.get(stated["crop_mode"])
    if mode is None or (config.image_size is None and height != width):
        raise EncoderError(
            f"encoder {config.name} was made for images of {width} x {height} pixels in mode "
            f"{stated['crop_mode']}, which is not supported; give --image-size and --image-mode"
        )
    # Who asks for another mode than timm states wants to lose nothing of the picture.
    as_stated = mode == "crop" or config.image_mode is None
    return Preprocessing(
        image_size=config.image_size or height,
        image_mode=mode,
        crop_fraction=stated["crop_pct"] if as_stated else 1.0,
        interpolation=stated["interpolation"],
        mean=tuple(map(float, stated["mean"])),
        std=tuple(map(float, stated["std"])),
    )
