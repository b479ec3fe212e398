"""What is known of an upload before anything decodes it: its format, its size, what it would cost.

The bytes alone decide, never a name or a stated type. What is too large, has too many scans or
carries too much besides the picture is refused here, in time that grows with the bytes and not
with what they promise: a progressive JPEG of 38 kB can cost a decoder a minute (libjpeg-turbo
issue 284), and neither libjpeg nor Pillow has a limit for that.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from captioner.errors import OptionError
from serving.errors import ImageRejected
from serving.images.container_headers import avif_size, bmp_size, gif_size, png_size, webp_size
from serving.images.header_budget import Budget
from serving.images.jpeg_header import jpeg_size

SIZE_READERS: dict[str, Callable[[bytes, Budget], tuple[int, int]]] = {
    "JPEG": jpeg_size,
    "PNG": png_size,
    "WEBP": webp_size,
    "GIF": gif_size,
    "BMP": bmp_size,
    "AVIF": avif_size,
}
AVIF_BRANDS = (b"avif", b"avis")


@dataclass(frozen=True)
class ImageHeader:
    """What an upload says about its picture."""

    format: str  # a key of SIZE_READERS
    width: int  # pixels
    height: int


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What is accepted.

    Raises:
        OptionError: a format is unknown, or a limit allows nothing.
    """

    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    pixels: int = 50_000_000  # a telephone of 48 megapixels passes
    side: int = 20_000
    scans: int = 64  # of a JPEG; encoders write at most 11
    scan_pixels: int = 600_000_000  # scans times pixels
    text_bytes: int = 1 << 20  # comments, texts and XMP, as stored
    chunks: int = 20_000  # parts of a file that are walked over

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(SIZE_READERS))
        if unknown or not self.formats:
            raise OptionError(
                f"formats is {', '.join(map(repr, unknown)) or 'empty'}; choose from "
                f"{', '.join(SIZE_READERS)}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "formats" and value < 1:
                raise OptionError(f"{field.name} is {value}; it must be at least 1")


def format_of(data: bytes, limits: ImageLimits) -> str:
    """Return the format that the first bytes show; constant time.

    Raises:
        ImageRejected: corrupt_image where there are no bytes, or unsupported_format.
    """
    if not data:
        raise ImageRejected("corrupt_image", "the image is empty; send the bytes of a picture")
    name = _signature(data[:64])
    if name in limits.formats:
        return name
    met = "not an image of a known format" if name is None else f"{name}, which is not accepted"
    raise ImageRejected(
        "unsupported_format", f"the upload is {met}; send {', '.join(limits.formats)}"
    )


def inspect(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Return the header of an upload within the limits; linear time, nothing is decoded.

    Width and height are as stored, before the camera's orientation is applied.

    Raises:
        ImageRejected: corrupt_image, unsupported_format or image_too_large.
    """
    name = format_of(data, limits)
    budget = Budget(
        pixels=limits.pixels,
        side=limits.side,
        scans=limits.scans,
        scan_pixels=limits.scan_pixels,
        text_bytes=limits.text_bytes,
        chunks=limits.chunks,
    )
    width, height = SIZE_READERS[name](data, budget)
    return ImageHeader(name, width, height)


def _signature(start: bytes) -> str | None:
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith(b"BM"):
        return "BMP"
    if start[4:8] == b"ftyp":
        size = min(int.from_bytes(start[:4], "big"), len(start))
        brands = [start[8:12], *(start[at : at + 4] for at in range(16, size - 3, 4))]
        if any(brand in AVIF_BRANDS for brand in brands):
            return "AVIF"
    return None
