"""Limits of an upload, and the refusals of what exceeds them."""

from dataclasses import dataclass

from captioner.sandbox.errors import ImageRejected

DECODABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # without asking for more


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What is accepted."""

    formats: tuple[str, ...] = FORMATS
    pixels: int = 50_000_000  # a telephone of 48 megapixels passes
    side: int = 20_000
    scans: int = 64  # of a JPEG; encoders write at most 11
    scan_pixels: int = 600_000_000  # scans times pixels
    text_bytes: int = 1 << 20  # texts of a PNG, unpacked, or comments of a JPEG
    segments: int = 20_000  # of a JPEG, chunks of a PNG, blocks of a GIF

    def check_size(self, width: int, height: int) -> None:
        """Raise `ImageRejected` where a picture of this size is none, or is too large."""
        if width < 1 or height < 1:
            raise corrupt(f"the picture has {width} x {height} pixels")
        met = f"the picture has {width:,} x {height:,} pixels"
        if max(width, height) > self.side:
            raise too_large(f"{met}, at most {self.side:,} a side are accepted")
        if width * height > self.pixels:
            raise too_large(f"{met}, at most {self.pixels:,} in all are accepted")


def corrupt(what: str) -> ImageRejected:
    """Return the refusal of a damaged file; `what` is made of this project's own words."""
    return ImageRejected("corrupt_image", f"{what}; the file is damaged or incomplete")


def too_large(what: str) -> ImageRejected:
    """Return the refusal of a file that would cost too much."""
    return ImageRejected("image_too_large", f"{what}; make the picture smaller or save it anew")
