"""What the header of an upload may use up, and the words for having used up more.

The readers of headers ask here while they walk, so that a walk ends where a limit does.
"""

from dataclasses import dataclass

from serving.errors import ImageRejected


def corrupt(what: str) -> ImageRejected:
    """Return the refusal of a damaged file; `what` is made of this project's own words."""
    return ImageRejected("corrupt_image", f"{what}; the file is damaged or incomplete")


def too_large(what: str) -> ImageRejected:
    """Return the refusal of a file that would cost too much."""
    return ImageRejected("image_too_large", f"{what}; make the picture smaller or save it anew")


@dataclass(kw_only=True)
class Budget:
    """The limits of one upload, and what its walk has met so far."""

    pixels: int
    side: int
    scans: int
    scan_pixels: int
    text_bytes: int
    chunks: int
    scans_met: int = 0
    text_met: int = 0
    chunks_met: int = 0

    def check_size(self, width: int, height: int) -> None:
        """Raise where a picture of this size is none, or is too large."""
        if width < 1 or height < 1:
            raise corrupt(f"the picture has {width} x {height} pixels")
        met = f"the picture has {width:,} x {height:,} pixels"
        if max(width, height) > self.side:
            raise too_large(f"{met}, at most {self.side:,} a side are accepted")
        if width * height > self.pixels:
            raise too_large(f"{met}, at most {self.pixels:,} in all are accepted")

    def add_chunk(self) -> None:
        """Count one part of the file."""
        self.chunks_met += 1
        if self.chunks_met > self.chunks:
            raise too_large(f"the file has more than {self.chunks:,} parts")

    def add_text(self, size: int) -> None:
        """Count bytes that are no picture."""
        self.text_met += size
        if self.text_met > self.text_bytes:
            raise too_large(f"the file carries more than {self.text_bytes:,} bytes of text")

    def add_scan(self, width: int, height: int) -> None:
        """Count one pass over the whole picture."""
        self.scans_met += 1
        if self.scans_met > self.scans:
            raise too_large(f"the file has more than {self.scans} scans")
        if self.scans_met * width * height > self.scan_pixels:
            raise too_large(
                f"the file has at least {self.scans_met} scans of {width:,} x {height:,} pixels, "
                f"at most {self.scan_pixels:,} pixels in all scans are accepted"
            )
