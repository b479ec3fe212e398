"""Photographs as people see them: upright, in colour, opaque.

A file may have EXIF orientation, transparency, a palette, CMYK, 16 bits per channel or several
frames. `open_image` returns one RGB picture with decoded pixels, or raises an `ImageError` of one
line that names the file. It changes no warning filter, so many threads may call it at once.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from captioner.data.image_formats import HEAD_BYTES, unreadable_format
from captioner.data.progressive_jpeg import without_fine_scans
from captioner.errors import ImageError
from captioner.text import in_one_line

PIXEL_LIMIT = 89_478_485  # where Pillow begins to warn: 256 MiB at three bytes a pixel
PAPER = (255, 255, 255)  # what shows through a transparent pixel
ROWS_AT_ONCE = 64  # of deep grey: as floating point a photograph takes eight times its memory
UPRIGHT = 1  # orientation in EXIF
SMALLEST_SHARE = 8  # a JPEG is decoded at an eighth of its size at least
TRANSPARENT_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})

ImageSource = Path | str | Image.Image | bytes | BinaryIO
LeastSize = Callable[[int, int], tuple[int, int]]  # of the whole picture -> to be decoded at least


def open_image(source: ImageSource, least_size: LeastSize | None = None) -> Image.Image:
    """Return the picture as RGB, decoded: upright, its first frame, transparency on white.

    A JPEG much larger than `least_size` says is decoded at a half, a quarter or an eighth, which
    saves most of the time; without it, whole. An image that is already open is whole as well; it
    is converted in the same way and left as it was.

    Raises:
        ImageError: the source is of another type, there is no such file, it is no image, or it is
            damaged or far too large.
    """
    name = _name(source)
    if not (isinstance(source, str | os.PathLike | bytes | Image.Image) or hasattr(source, "read")):
        raise ImageError(
            f"an image is of type {type(source).__name__}; give a path, an open PIL image (of an "
            "array: PIL.Image.fromarray), bytes or a file"
        )
    try:
        if isinstance(source, Image.Image):
            picture = _as_rgb(_upright(source))
            return picture.copy() if picture is source else picture
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise Image.DecompressionBombError
            return decode_picture(image, least_size)
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder; name an image file") from None
    except UnidentifiedImageError:
        if form := unreadable_format(name, _head(source)):
            raise ImageError(
                f"{name} is {form}, which cannot be read here; save it as JPEG or PNG first"
            ) from None
        raise ImageError(f"{name} is not an image in a known format; use JPEG or PNG") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        raise ImageError(
            f"{name} has more than {PIXEL_LIMIT:,} pixels, the limit; make it smaller first"
        ) from problem
    except Exception as problem:  # Pillow's decoders raise nearly anything for damaged files
        raise ImageError(
            f"{name} cannot be decoded: {in_one_line(problem)}; it is damaged or incomplete: "
            "fetch it again, save it anew as JPEG or PNG, or remove it"
        ) from problem


def decode_picture(image: Image.Image, least_size: LeastSize | None = None) -> Image.Image:
    """Return what `open_image` does of a file that Pillow has opened, whose pixels it now decodes.

    Raises:
        Exception: whatever Pillow's decoders raise for a damaged file.
    """
    if least_size is not None:
        image = _draft(image, least_size)
    return _as_rgb(_upright(image))


def _draft(image: Image.Image, least_size: LeastSize) -> Image.Image:
    whole, least = image.size, least_size(*image.size)
    image.draft(None, least)
    if image.size == whole:
        return image
    # A draft rounds up: its last row or column may stand for one pixel of the whole picture only,
    # and would shift all others by its share. It is left out where it stands for less than half.
    share = round(max(whole) / max(image.size))
    if share == SMALLEST_SHARE and image.format == "JPEG" and "progressive" in image.info:
        image = _of_few_scans(image, least)
    exact = round(whole[0] / share), round(whole[1] / share)
    return image if exact == image.size else image.crop((0, 0, *exact))


def _of_few_scans(image: Image.Image, least: tuple[int, int]) -> Image.Image:
    """Return a progressive JPEG, opened to be decoded at an eighth, without what that needs not."""
    stream: BinaryIO | None = getattr(image, "fp", None)  # that of a file which is not yet decoded
    if stream is None:
        return image
    stream.seek(0)
    few = without_fine_scans(stream.read())
    if few is None:
        return image
    smaller = Image.open(BytesIO(few), formats=("JPEG",))
    smaller.draft(None, least)
    return smaller


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    with suppress(Exception):  # damaged metadata must not cost a picture whose pixels are whole
        if image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
            return ImageOps.exif_transpose(image)
    return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep_grey(image)
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (*PAPER, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Return grey values of more than 8 bits on the scale 0 to 255.

    Conversions elsewhere cut off what exceeds 255. Integers are taken as 16 bits wide, as PNG
    and TIFF store them; floating point values are stretched from their least to their most. A grey
    that stands for no paint becomes paper.
    """
    values = np.asarray(image)
    low, high = 0.0, 65_535.0
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    elif image.mode == "I":
        most = float(values.max())
        high = 255.0 if most <= 255 else max(high, most)
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        scaled = (values[rows].astype(np.float64) - low) / max(high - low, 1e-12)
        scaled = np.nan_to_num(scaled, posinf=1.0, neginf=0.0)
        grey[rows] = np.rint(np.clip(scaled, 0, 1) * 255)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # of a PNG: the one grey that is transparent
        grey[values == clear] = PAPER[0]
    return Image.fromarray(grey).convert("RGB")


def _name(source: ImageSource) -> str:
    if isinstance(source, Path | str):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if name else "the image"


def _head(source: ImageSource) -> bytes:
    """Return the first bytes of a source that could be read, and was no image."""
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    if isinstance(source, Image.Image):
        return b""
    with suppress(OSError, ValueError):
        if isinstance(source, Path | str):
            with open(source, "rb") as file:
                return file.read(HEAD_BYTES)
        source.seek(0)
        return source.read(HEAD_BYTES)
    return b""
