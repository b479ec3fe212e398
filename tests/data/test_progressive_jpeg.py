"""Progressive JPEGs at an eighth of their size: fewer scans, and the pixels of all of them."""

import random
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter

from captioner.data.images import open_image
from captioner.data.progressive_jpeg import without_fine_scans
from captioner.errors import ImageError

SIZES = ((1003, 757), (64, 64), (17, 33), (9, 8))


def structured(size: tuple[int, int]) -> Image.Image:
    """Return a picture with structure of all sizes, which smoothing would change."""
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.blend(
        Image.fromarray(noise), Image.fromarray(noise).filter(ImageFilter.GaussianBlur(9)), 0.5
    )


def saved(image: Image.Image, **options: Any) -> bytes:
    content = BytesIO()
    image.save(content, "JPEG", **{"progressive": True, **options})
    return content.getvalue()


def at_an_eighth(data: bytes) -> np.ndarray:
    """Return what libjpeg makes of all scans of a file."""
    image = Image.open(BytesIO(data))
    image.draft(None, (1, 1))
    return np.asarray(image)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        *(("RGB", {"subsampling": sampling}) for sampling in ("4:4:4", "4:2:2", "4:2:0")),
        ("RGB", {"restart_marker_blocks": 3}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_the_pixels_are_those_of_all_scans(
    size: tuple[int, int], mode: str, options: dict[str, Any]
) -> None:
    data = saved(structured(size).convert(mode), **options)
    few = without_fine_scans(data)
    assert few is not None
    assert few.count(b"\xff\xda") <= data.count(b"\xff\xda")
    if size == SIZES[0]:
        assert len(few) < 0.5 * len(data)
    assert np.array_equal(at_an_eighth(few), at_an_eighth(data))


def test_a_photograph_that_is_opened_small_is_read_so_and_stays_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    data = saved(structured((1600, 1200)), exif=exif)
    expected = np.rot90(at_an_eighth(data), -1)
    for source in (data, BytesIO(data)):
        assert np.array_equal(np.asarray(open_image(source, lambda *_: (200, 150))), expected)


def test_only_a_whole_progressive_file_is_shortened() -> None:
    data = saved(structured((160, 120)))
    assert without_fine_scans(data) is not None
    assert without_fine_scans(saved(structured((160, 120)), progressive=False)) is None
    for end in range(0, len(data) - 1, 97):
        assert without_fine_scans(data[:end]) is None
    with pytest.raises(ImageError, match="truncated"):
        open_image(data[:-2000], lambda *_: (20, 15))


def test_a_damaged_file_is_shortened_or_left_alone() -> None:
    data, generator = saved(structured((64, 48))), random.Random(0)
    head = data.index(b"\xff\xda") + 20
    outcomes = set()
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[generator.randrange(head)] = generator.randrange(256)
        outcomes.add(type(without_fine_scans(bytes(damaged))))
    assert outcomes == {bytes, type(None)}
