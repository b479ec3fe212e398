"""Preprocessing of photographs for an encoder.

A checkpoint keeps this beside its weights, because a model must see users' photographs as it saw
those it learned from. The modes "crop" and "squash" give the pixels of timm's evaluation transform
with the same settings; "whole" keeps the picture's shape, as the h-detach authors did. Importing
this does not import torch, so a process that only reads photographs stays small.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from captioner.data.images import ImageSource, open_image
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, Options, Range, option

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_MODES = ("crop", "squash", "whole")
WHOLE_MULTIPLE = 32  # the stride of nearly every network's last feature map, in pixels
MOST_ELONGATED = 50  # longer side to shorter; beyond it, "crop" leaves out the far ends first
# A JPEG is decoded at no less than this times the size it is resized to. With it a photograph of 12
# megapixels is decoded at an eighth; the pixels differ by 0.4 of 255 from those of the whole one on
# average, with twice the size by 0.2 (docs/results/inference.md).
DRAFT_MARGIN = 1.35
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Below it, what is cut away would have to be computed first: a hundred times the picture.
CROP_FRACTION = Range("it must be from 0.1 to 1", lambda value: 0.1 <= value <= 1)


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Options):
    """How an image becomes an encoder's input; the defaults are those of most ImageNet models."""

    image_size: int = option(
        224,
        'pixels: side of the square, or in mode "whole" the limit of the longest side',
        within=AT_LEAST_ONE,
    )
    image_mode: str = option("crop", "how an image becomes the input", choices=IMAGE_MODES)
    crop_fraction: float = option(
        0.875, 'part of the resized image that is kept; "whole" keeps all', within=CROP_FRACTION
    )
    interpolation: str = option("bicubic", "filter of the resizing", choices=tuple(INTERPOLATIONS))
    mean: tuple[float, ...] = option(
        (0.485, 0.456, 0.406), "of red, green and blue on the scale 0 to 1"
    )
    std: tuple[float, ...] = option(
        (0.229, 0.224, 0.225), "of red, green and blue", within=ABOVE_ZERO
    )

    @classmethod
    def label(cls, name: str) -> str:
        return name

    def contradictions(self) -> Iterable[str]:
        if self.image_mode == "whole" and self.image_size < WHOLE_MULTIPLE:
            yield f"image_size is {self.image_size} pixels; give at least {WHOLE_MULTIPLE}"
        for name in ("mean", "std"):
            if len(values := getattr(self, name)) != 3:
                yield f"{name} is {values}; give one number each for red, green, blue"

    def read(self, source: ImageSource) -> np.ndarray:
        """Return a photograph at the size the encoder sees: uint8 [height, width, 3].

        Raises:
            ImageError: there is no such file, it is no image, or it is damaged or far too large.
        """
        return self.resize(open_image(source, self.least_size))

    def resize(self, image: Image.Image) -> np.ndarray:
        """Return the image at the size the encoder sees: uint8 [height, width, 3].

        A quarter of the bytes of the normalised image, so this is what to hand from one process
        or device to another.
        """
        return np.array(self.resized(image))

    def resized(self, image: Image.Image) -> Image.Image:
        """Return the image at the size the encoder sees."""
        modes = {"crop": self._crop, "squash": self._squash, "whole": self._whole}
        return modes[self.image_mode](image)

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the least size at which a picture of this one may be decoded.

        It leaves the pixels nearly as those of the whole picture, and those of small photographs
        such as COCO's exactly as they are. Turning the picture turns the result.
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
