"""Preprocessing of photographs for an encoder.

A checkpoint keeps this beside its weights, because a model must see users' photographs as it saw
those it learned from. The modes "crop" and "squash" give the pixels of timm's evaluation transform
with the same settings; "whole" keeps the picture's shape, as the h-detach authors did. Importing
this does not import torch, so a process that only reads photographs stays small.
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from PIL import Image

from captioner.data.images import ImageSource, open_image
from captioner.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_MODES = ("crop", "squash", "whole")
WHOLE_MULTIPLE = 32  # the stride of nearly every network's last feature map, in pixels
MOST_ELONGATED = 50  # longer side to shorter; beyond it, "crop" leaves out the far ends first
DRAFT_MARGIN = 2.0  # a JPEG is decoded at no less than this times the size it is resized to
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes a tensor; the defaults are those of most ImageNet models."""

    image_size: int = 224  # side of the square, or in mode "whole" the limit of the longest side
    image_mode: str = "crop"
    crop_fraction: float = 0.875  # of the resized image that is kept; "whole" keeps all
    interpolation: str = "bicubic"
    mean: Colour = (0.485, 0.456, 0.406)  # red, green, blue on the scale 0 to 1
    std: Colour = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.image_mode not in IMAGE_MODES:
            raise OptionError(
                f"image_mode is {self.image_mode!r}; choose one of {', '.join(IMAGE_MODES)}"
            )
        least = WHOLE_MULTIPLE if self.image_mode == "whole" else 1
        if self.image_size < least:
            raise OptionError(f"image_size is {self.image_size} pixels; give at least {least}")
        if not 0.0 < self.crop_fraction <= 1.0:
            raise OptionError(
                f"crop_fraction is {self.crop_fraction}; it must be above 0 and at most 1"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(
                f"interpolation is {self.interpolation!r}; choose one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != len(get_args(Colour)):
                raise OptionError(f"{name} is {values}; give one number each for red, green, blue")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if min(self.std) <= 0.0:
            raise OptionError(f"std is {self.std}; all three must be above 0")

    def __call__(self, image: Image.Image) -> "Tensor":
        """Return what the encoder takes: float32 [3, height, width]."""
        return self.normalise(self.resize(image))

    def read(self, source: ImageSource) -> "Tensor":
        """Return a photograph at the size the encoder sees: uint8 [3, height, width].

        Raises:
            ImageError: there is no such file, it is no image, or it is damaged or far too large.
        """
        return self.resize(open_image(source, self.least_size))

    def resize(self, image: Image.Image) -> "Tensor":
        """Return the image at the size the encoder sees: uint8 [3, height, width].

        A quarter of the bytes of the normalised image, so this is what to hand from one process
        or device to another. Its memory is channels-last.
        """
        import torch

        return torch.from_numpy(np.array(self.resized(image))).permute(2, 0, 1)

    def resized(self, image: Image.Image) -> Image.Image:
        """Return the image at the size the encoder sees."""
        modes = {"crop": self._crop, "squash": self._squash, "whole": self._whole}
        return modes[self.image_mode](image)

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the least size at which a picture of this one may be decoded.

        It leaves the pixels as good as those of the whole picture (Pillow's `thumbnail` keeps the
        same margin), and data sets of small photographs such as COCO exactly as they are. Turning
        the picture turns the result.
        """
        if max(width, height) > MOST_ELONGATED * min(width, height):
            return width, height
        if self.image_mode == "whole":
            least = self._size_of_whole(width, height)
        elif self.image_mode == "squash":
            least = (self._size_before_crop(),) * 2
        else:
            least = self._size_of_short_side(width, height)
        return math.ceil(DRAFT_MARGIN * least[0]), math.ceil(DRAFT_MARGIN * least[1])

    def normalise(self, pixels: "Tensor") -> "Tensor":
        """Return pixels uint8 [..., 3, h, w] as float32 on the scale the network learned with."""
        import torch

        mean, std = (
            torch.tensor(values, device=pixels.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return pixels.to(torch.float32).div_(255.0).sub_(mean).div_(std)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a value that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        """Return the settings that `to_json` wrote."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})

    def _crop(self, image: Image.Image) -> Image.Image:
        """Resize the shorter side and keep the centre."""
        width, height = image.size
        # A strip one pixel wide would become gigabytes, of which only the centre is seen.
        longest = MOST_ELONGATED * min(width, height)
        if max(width, height) > longest:
            image = _centre(image, min(width, longest), min(height, longest))
        size = self._size_of_short_side(*image.size)
        return _centre(self._resized(image, size), self.image_size, self.image_size)

    def _squash(self, image: Image.Image) -> Image.Image:
        side = self._size_before_crop()
        return _centre(self._resized(image, (side, side)), self.image_size, self.image_size)

    def _whole(self, image: Image.Image) -> Image.Image:
        return self._resized(image, self._size_of_whole(*image.size))

    def _size_of_whole(self, *size: int) -> tuple[int, int]:
        limit = self.image_size // WHOLE_MULTIPLE * WHOLE_MULTIPLE
        scale = min(1.0, limit / max(size))
        width, height = (
            min(limit, max(1, round(side * scale / WHOLE_MULTIPLE)) * WHOLE_MULTIPLE)
            for side in size
        )
        return width, height

    def _size_of_short_side(self, width: int, height: int) -> tuple[int, int]:
        short = self._size_before_crop()
        if width <= height:
            return short, int(short * height / width)
        return int(short * width / height), short

    def _size_before_crop(self) -> int:
        return math.floor(self.image_size / self.crop_fraction)

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        if image.size == size:
            return image
        return image.resize(size, INTERPOLATIONS[self.interpolation])


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
