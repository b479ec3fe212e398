"""Scans of a JPEG file, counted from its markers without decoding anything.

A progressive file of 38 kB can cost a decoder a minute (libjpeg-turbo issue 284), and neither
libjpeg nor Pillow has a limit for that. The walk follows libjpeg's (jdmarker.c): segments by their
stated length, the coded data of a scan up to the next marker. Damage before the first scan is an
error. After it the walk just stops, because the decoder has a picture then and stops there too.
"""

from captioner.data.progressive_jpeg import ALONE, END, FRAMES, MARKER, SCAN
from captioner.sandbox.limits import ImageLimits, corrupt, too_large

_COMMENT = 0xFE


def check_scans(data: bytes, limits: ImageLimits) -> None:
    """Check the size, the scans, the segments and the comments of a file; linear time.

    Raises:
        ImageRejected: there is no frame or no scan, or a limit is passed.
    """
    pixels = scans = segments = text = 0
    position = 2
    while (found := MARKER.search(data, position)) is not None:
        if not scans:  # Pillow takes fill bytes one by one, at a microsecond each
            text += found.start() - position
        marker, position = data[found.start() + 1], found.end()
        if marker == END:
            break
        segments += 1
        length = 0 if marker in ALONE else int.from_bytes(data[position : position + 2], "big")
        if marker not in ALONE and (length < 2 or position + length > len(data)):
            if scans:
                break
            raise corrupt("a segment of the JPEG ends beyond the file")
        if marker in FRAMES:
            if pixels:
                raise corrupt("the JPEG has two frames")
            if length < 8:
                raise corrupt("the JPEG's frame is too short")
            height, width = (
                int.from_bytes(data[position + at : position + at + 2], "big") for at in (3, 5)
            )
            limits.check_size(width, height)
            pixels = width * height
        elif marker == _COMMENT:
            text += length - 2
        elif marker == SCAN:
            if not pixels:
                raise corrupt("the JPEG has a scan before its frame")
            scans += 1
        position += length
        _check(scans, pixels, segments, text, limits)
    if not scans:
        raise corrupt("the JPEG holds no picture")


def _check(scans: int, pixels: int, segments: int, text: int, limits: ImageLimits) -> None:
    if segments > limits.segments:
        raise too_large(f"the file has more than {limits.segments:,} parts")
    if text > limits.text_bytes:
        raise too_large(f"the file carries more than {limits.text_bytes:,} bytes of text")
    if scans > limits.scans:
        raise too_large(f"the file has more than {limits.scans} scans")
    if scans * pixels > limits.scan_pixels:
        raise too_large(
            f"the file has at least {scans} scans of {pixels:,} pixels, at most "
            f"{limits.scan_pixels:,} pixels in all scans are accepted"
        )
