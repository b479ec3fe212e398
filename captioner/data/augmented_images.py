"""Photographs changed so that their captions stay true.

A mild crop with another ratio of sides (which becomes a stretch where photographs are squeezed),
light, contrast, colourfulness, blur, and the traces of JPEG. Colours keep their hue and none is
taken away, for captions name them; what is named in a corner may be cut, so crops keep most of the
picture. Every change follows from numbers between 0 and 1 that the caller draws.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

NUM_DRAWS = 9  # numbers that one change is made of
VERSION = 1  # of what the numbers mean: other versions make other stored features

LEAST_AREA = 0.75  # of the picture that a crop keeps
ASPECTS = (4 / 5, 5 / 4)  # of a crop, relative to the picture's own
LIGHT = (0.8, 1.25)  # factors of brightness: what is white stays so,
CONTRAST = (0.8, 1.25)  # of contrast,
COLOUR = (0.7, 1.4)  # and of colourfulness; at 0 a picture would be grey
SHARE_BLURRED, LARGEST_BLUR = 0.3, 0.005  # of pictures; radius, of the longer side
SHARE_JPEG, QUALITIES = 0.5, (25, 90)  # of pictures; Pillow's quality


class Change(NamedTuple):
    """How one photograph is changed."""

    crop: tuple[float, float, float, float]  # area, aspect, left, top; see `cropped`
    light: float
    contrast: float
    colour: float
    blur: float  # radius, of the longer side
    quality: int | None  # of a JPEG that is written and read again


def change_of(draws: Sequence[float]) -> Change:
    """Return the change that `NUM_DRAWS` numbers between 0 and 1 stand for."""
    area, aspect, left, top, light, contrast, colour, blur, jpeg = draws
    return Change(
        crop=(LEAST_AREA + (1 - LEAST_AREA) * area, _between(ASPECTS, aspect), left, top),
        light=_between(LIGHT, light),
        contrast=_between(CONTRAST, contrast),
        colour=_between(COLOUR, colour),
        blur=LARGEST_BLUR * max(0.0, 1 - blur / SHARE_BLURRED),
        quality=round(QUALITIES[0] + (QUALITIES[1] - QUALITIES[0]) * jpeg / SHARE_JPEG)
        if jpeg < SHARE_JPEG
        else None,
    )


def changed(image: Image.Image, change: Change, *, with_crop: bool = True) -> Image.Image:
    """Return the RGB image changed; without the change's crop where it is cropped already."""
    if with_crop:
        image = cropped(image, *change.crop)
    image = ImageEnhance.Brightness(image).enhance(change.light)
    image = ImageEnhance.Contrast(image).enhance(change.contrast)
    image = ImageEnhance.Color(image).enhance(change.colour)
    if change.blur:
        radius = change.blur * max(image.size)
        image = image.filter(ImageFilter.GaussianBlur(radius))
    if change.quality is not None:
        file = BytesIO()
        image.save(file, "JPEG", quality=change.quality)
        image = Image.open(file)
        image.load()
    return image


def cropped(image: Image.Image, area: float, aspect: float, left: float, top: float) -> Image.Image:
    """Return a part of the image with this share of its area.

    `aspect` is the part's width to height relative to the image's; `left` and `top` lie between
    0 and 1 and say where in the free space the part lies.
    """
    width = max(1, round(image.width * min(1.0, (area * aspect) ** 0.5)))
    height = max(1, round(image.height * min(1.0, (area / aspect) ** 0.5)))
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    return image.crop((x, y, x + width, y + height))


@dataclass(frozen=True, kw_only=True)
class AugmentedCopy:
    """One changed copy of every photograph of a data set, always the same.

    How a photograph is changed depends on its name and the copy's number only. Of copies that
    `may_mirror` a half is mirrored.
    """

    number: int
    may_mirror: bool

    def is_mirrored(self, filename: str) -> bool:
        """Return whether the copy of this photograph is mirrored."""
        return self.may_mirror and self._draws(filename)[0] < 0.5

    def of(self, image: Image.Image, filename: str) -> Image.Image:
        """Return the copy of a photograph, an RGB image."""
        image = changed(image, change_of(self._draws(filename)[1:]))
        return ImageOps.mirror(image) if self.is_mirrored(filename) else image

    def to_json(self) -> dict[str, Any]:
        """Return what tells the copy's features from others."""
        return {"copy": self.number, "may_mirror": self.may_mirror, "version": VERSION}

    def _draws(self, filename: str) -> list[float]:
        name = f"{self.number}:{filename}".encode("utf-8", "surrogatepass")
        seed = int.from_bytes(hashlib.sha256(name).digest()[:8], "little")
        draws: list[float] = np.random.default_rng(seed).random(1 + NUM_DRAWS).tolist()
        return draws


def _between(ends: tuple[float, float], share: float) -> float:
    """Return a number between the ends, such that factors up and down are as likely."""
    low, high = ends
    return float(low * (high / low) ** share)
