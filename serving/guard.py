"""What is known of an upload before anything decodes it: its format, its size, what it would cost.

The bytes alone decide, never a name or a stated type.
"""

from dataclasses import dataclass

from serving.refusals import ImageRejected


@dataclass(frozen=True)
class ImageHeader:
    """What the file says about itself."""

    format: str  # "JPEG", "PNG", "WEBP", "GIF", "BMP" or "AVIF"
    width: int  # pixels, as stored
    height: int


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What is accepted."""

    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    pixels: int = 50_000_000
    side: int = 20_000
    scans: int = 64
    scan_pixels: int = 600_000_000
    text_bytes: int = 1 << 20
    chunks: int = 20_000


def format_of(data: bytes, limits: ImageLimits) -> str:
    """Return the format that the first bytes show; constant time.

    Raises:
        ImageRejected: corrupt_image (empty) or unsupported_format.
    """
    raise ImageRejected("unsupported_format", "not there yet")


def inspect(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Return the header of an upload within the limits; linear time, nothing is decoded.

    `DecodePool.decode` calls it in the worker, so that the event loop need not.

    Raises:
        ImageRejected: corrupt_image, unsupported_format or image_too_large.
    """
    raise ImageRejected("unsupported_format", "not there yet")
