"""Checks of an upload before its pixels are decoded: format, size, number of scans.

Only the bytes count, not the name or the declared type. Pillow reads the size without decoding; the
markers of a JPEG and the parts of a PNG or GIF are counted before. The kernel limits any
other cost in the process that does this (`decode_worker.py`).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, PngImagePlugin

from captioner.data.image_formats import recognised
from captioner.sandbox.errors import ImageRejected
from captioner.sandbox.jpeg_scans import check_scans
from captioner.sandbox.limits import ImageLimits, corrupt, too_large

_ADVICE = {
    "HEIC": "convert it to JPEG; an iPhone takes JPEG with Settings, Camera, Formats, Most "
    "Compatible",
    "a video": "send one of its pictures as JPEG",
    "PDF": "save the page as a picture, as JPEG or PNG",
    "SVG": "export it as PNG",
    "a web page": "send the picture itself; perhaps it could not be fetched",
    "a ZIP file": "unpack it and send a picture",
}


@dataclass(frozen=True)
class ImageHeader:
    """What an upload says about its picture."""

    format: str  # one of limits.DECODABLE
    width: int  # pixels
    height: int


def format_of(data: bytes, limits: ImageLimits) -> str:
    """Return the format that the first bytes show; constant time.

    Raises:
        ImageRejected: corrupt_image where there are no bytes, or unsupported_format.
    """
    if not data:
        raise ImageRejected("corrupt_image", "the image is empty; send the bytes of a picture")
    name = recognised(data)
    if name in limits.formats:
        return name
    accepted = f"{', '.join(limits.formats)} are"
    if name is None:
        detail = f"the file is not an image of a known format; {accepted} accepted"
    else:
        remedy = _ADVICE.get(name, "convert it to JPEG or PNG")
        detail = f"the file is {name}, which is not accepted; {remedy} ({accepted})"
    raise ImageRejected("unsupported_format", detail)


def limit_pillow(limits: ImageLimits) -> None:
    """Set Pillow's own limits for this process."""
    Image.MAX_IMAGE_PIXELS = limits.pixels
    PngImagePlugin.MAX_TEXT_MEMORY = limits.text_bytes


@contextmanager
def opened_picture(data: bytes, limits: ImageLimits) -> Iterator[tuple[Image.Image, ImageHeader]]:
    """Open a picture, which is not decoded yet, and refuse it for whatever fails inside.

    Width and height are as stored, before the camera's orientation is applied.

    Raises:
        ImageRejected: corrupt_image, unsupported_format or image_too_large.
    """
    name = format_of(data, limits)
    if name == "JPEG":
        check_scans(data, limits)
    parts = {"PNG": _png_chunks, "GIF": _gif_blocks}.get(name)
    if parts is not None and any(count >= limits.segments for count, _ in enumerate(parts(data))):
        raise too_large(f"the file has more than {limits.segments:,} parts")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(data), formats=[name])
        with opened as image:
            limits.check_size(*image.size)
            yield image, ImageHeader(name, *image.size)
    except ImageRejected:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(f"the picture has more than {limits.pixels:,} pixels") from None
    except MemoryError:
        raise too_large("the picture needs more memory than its decoder is given") from None
    except Exception as problem:  # Pillow's decoders raise nearly anything for damaged files
        if "MAX_TEXT" in str(problem):  # the limit that Pillow names
            raise too_large(
                f"the file holds more than {limits.text_bytes:,} bytes of text"
            ) from None
        raise corrupt("the picture cannot be decoded") from None


def _png_chunks(data: bytes) -> Iterator[int]:
    """Yield where each chunk begins; Pillow walks them at some microseconds each."""
    position = 8
    while data[position + 4 : position + 8] not in (b"", b"IEND"):
        yield position
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Yield where each block of an extension before the first frame begins, and each stray byte."""
    flags = int.from_bytes(data[10:11], "big")
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while (kind := data[position : position + 1]) not in (b"", b",", b";"):
        yield position
        position += 1
        if kind == b"!":  # then its label, and blocks up to an empty one
            position += 1
            while size := int.from_bytes(data[position : position + 1], "big"):
                yield position
                position += 1 + size
            position += 1
