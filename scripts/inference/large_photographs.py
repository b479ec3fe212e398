"""A photograph of 12 megapixels in several formats, made ready for the encoder."""

import io
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from captioner.data.images import open_image
from captioner.data.progressive_jpeg import without_fine_scans
from captioner.encoder.preprocessing import Preprocessing
from inference.models import LARGE, drawn

TWICE = 2  # the margin of a decoding at a quarter
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG 4:2:0, quality 90": ("JPEG", {"quality": 90, "subsampling": "4:2:0"}),
    "JPEG 4:2:0, quality 95": ("JPEG", {"quality": 95, "subsampling": "4:2:0"}),
    "JPEG 4:2:2, quality 90": ("JPEG", {"quality": 90, "subsampling": "4:2:2"}),
    "JPEG 4:4:4, quality 90": ("JPEG", {"quality": 90, "subsampling": "4:4:4"}),
    "progressive JPEG 4:2:0": (
        "JPEG",
        {"quality": 90, "subsampling": "4:2:0", "progressive": True},
    ),
    "progressive JPEG 4:2:2": (
        "JPEG",
        {"quality": 90, "subsampling": "4:2:2", "progressive": True},
    ),
    "progressive JPEG 4:4:4": (
        "JPEG",
        {"quality": 90, "subsampling": "4:4:4", "progressive": True},
    ),
    "PNG": ("PNG", {}),
}


def large_photographs(preprocessing: Preprocessing, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield for each format the milliseconds of making it ready, and how far its pixels are off."""
    side = preprocessing.image_size
    photograph = drawn(0, LARGE)
    for name, (kind, options) in FORMATS.items():
        file = io.BytesIO()
        photograph.save(file, kind, **options)
        data = file.getvalue()
        whole = preprocessing.resize(open_image(data)).astype(np.float64)

        def at_a_quarter(data: bytes = data) -> np.ndarray:
            image = open_image(data, lambda *_: (TWICE * side, TWICE * side))
            return preprocessing.resize(image)

        def as_it_is(data: bytes = data) -> np.ndarray:
            return preprocessing.read(data)

        row: dict[str, Any] = {"format": name, "megabytes": len(data) / 1e6}
        for key, make in (("quarter", at_a_quarter), ("ready", as_it_is)):
            row[key] = least_ms(make, rounds)
            row[f"{key}_off"] = float(np.abs(make() - whole).mean())
        if kind == "PNG":
            stored = _stored_pixels(data)
            row["alone"] = {"zlib alone": least_ms(partial(zlib.decompress, stored), rounds)}
        elif (needed := without_fine_scans(data)) is not None:
            row["alone"] = {
                "all scans": least_ms(partial(_decoded_at_an_eighth, data), rounds),
                "those needed": least_ms(partial(_decoded_at_an_eighth, needed), rounds),
            }
        yield row


def least_ms(work: Callable[[], Any], rounds: int) -> float:
    """Return the least milliseconds that some work took."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - begin))
    return min(taken)


def _decoded_at_an_eighth(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))
    image.draft(None, (LARGE[0] // 8, LARGE[1] // 8))
    image.load()


def _stored_pixels(data: bytes) -> bytes:
    """Return what a PNG holds of its pixels, as zlib deflated it."""
    at, found = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            found.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(found)
