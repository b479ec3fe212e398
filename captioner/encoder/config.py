"""Encoder configuration: the options of an encoder and the preprocessing that follows from them.

Options that are not given are timm's for the network, so pretrained weights see images as they did
in their training.
"""

from dataclasses import dataclass
from typing import Any

from captioner.encoder.preprocessing import IMAGE_MODES, Preprocessing
from captioner.errors import EncoderError, OptionError

PRETRAINED, NONE = "pretrained", "none"  # the values of `weights` that are not a file
_TIMM_CROP_MODES = {"center": "crop", "squash": "squash"}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network, with which weights, seen at which size and pooled to which grid."""

    name: str = "resnet152"  # as timm knows it
    weights: str = PRETRAINED  # or "none", or the path of a file
    grid: int = 7  # positions along each side: 7 makes 49
    image_size: int | None = None  # pixels; None: what timm states for this network
    image_mode: str | None = None  # None: what timm states for this network
    stage: int | None = None  # of timm's feature maps, from 0; None: the network's last output

    def __post_init__(self) -> None:
        if not self.name or not self.weights:
            raise OptionError("encoder and encoder_weights must not be empty")
        if self.grid < 1:
            raise OptionError(f"grid is {self.grid}; it needs at least 1 position along a side")
        if self.image_size is not None and self.image_size < 1:
            raise OptionError(f"image_size is {self.image_size} pixels; give at least 1")
        if self.image_mode is not None and self.image_mode not in IMAGE_MODES:
            raise OptionError(
                f"image_mode is {self.image_mode!r}; choose one of {', '.join(IMAGE_MODES)}"
            )


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
