"""Checks before decoding: what is accepted, what is named, and what costs too much."""

import random
import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO

import pytest
from PIL import Image, PngImagePlugin, features

from captioner.sandbox.errors import ImageRejected
from captioner.sandbox.jpeg_scans import check_scans
from captioner.sandbox.limits import ImageLimits
from captioner.sandbox.upload_checks import ImageHeader, format_of, limit_pillow, opened_picture

EVERY_FORMAT = ImageLimits(formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"))
LIMITS = ImageLimits()
KINDS = {
    "JPEG": ("JPEG", {}),
    "JPEG progressive": ("JPEG", {"progressive": True}),
    "JPEG with a comment": ("JPEG", {"comment": b"a" * 300}),
    "PNG": ("PNG", {}),
    "WEBP": ("WEBP", {}),
    "WEBP lossless": ("WEBP", {"lossless": True}),
    "WEBP extended": ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    "GIF": ("GIF", {"comment": b"a" * 300}),
    "BMP": ("BMP", {}),
    "AVIF": ("AVIF", {"speed": 10}),
}


@pytest.fixture(autouse=True)
def pillows_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Pillow its limits back at the end of each test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", PngImagePlugin.MAX_TEXT_MEMORY)


def inspect(data: bytes, limits: ImageLimits = LIMITS) -> ImageHeader:
    limit_pillow(limits)
    with opened_picture(data, limits) as (_, header):
        return header


def picture(width: int, height: int) -> Image.Image:
    seed = random.Random(width * 1000 + height)
    return Image.frombytes("RGB", (width, height), seed.randbytes(3 * width * height))


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    out = BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        inspect(data, limits)
    assert caught.value.detail.isprintable()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_format_and_size_are_those_that_pillow_finds(kind: str):
    file_format, options = KINDS[kind]
    for size in ((1, 1), (33, 20), (17, 300), (512, 16)):
        data = saved(picture(*size), file_format, **options)
        header = inspect(data, EVERY_FORMAT)
        with Image.open(BytesIO(data)) as opened:
            assert (header.format, header.width, header.height) == (opened.format, *opened.size)
        assert inspect(data + b"trailing rubbish", EVERY_FORMAT) == header


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animations_are_accepted_with_the_size_of_their_first_frame(file_format: str):
    data = saved(picture(30, 20), file_format, save_all=True, append_images=[picture(30, 20)] * 3)
    assert (inspect(data, LIMITS).width, inspect(data, LIMITS).height) == (30, 20)


def test_a_gif_frame_beyond_the_screen_counts():
    data = bytearray(saved(picture(8, 8), "GIF"))
    data[6:10] = struct.pack("<HH", 4, 2)
    with Image.open(BytesIO(bytes(data))) as opened:
        assert opened.size == (8, 8)
    assert (inspect(bytes(data), LIMITS).width, inspect(bytes(data), LIMITS).height) == (8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_a_refusal_or_the_right_size(kind: str):
    file_format, options = KINDS[kind]
    data = saved(picture(24, 24), file_format, **options)
    for end in range(0, len(data), max(1, len(data) // 200)):
        found = with_result(data[:end])
        assert found in (None, (24, 24))
        if found is None:
            code = refusal(data[:end], EVERY_FORMAT).code
            assert code == "corrupt_image" or (code, end < 64) == ("unsupported_format", True)


def test_content_decides_and_only_listed_formats_pass():
    assert refusal(b"").code == "corrupt_image"
    for data in (b"%PDF-1.7", b"\0", b"II*\0" + bytes(99), b"<svg>", b"RIFF1234WAVE"):
        assert refusal(data).code == "unsupported_format"
    tiff = saved(picture(4, 4), "TIFF")
    assert refusal(tiff, EVERY_FORMAT).code == "unsupported_format"
    avif = saved(picture(16, 16), "AVIF", speed=10)
    assert "AVIF, which is not accepted" in refusal(avif).detail
    assert format_of(avif, EVERY_FORMAT) == "AVIF"
    only_png = ImageLimits(formats=("PNG",))
    assert refusal(saved(picture(4, 4), "JPEG"), only_png).code == "unsupported_format"


RECOGNISED = {
    "HEIC": [b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1\0\0\0\0heix"],
    "a video": [b"\0\0\0\x20ftypisom\0\0\2\0isommp41", b"\0\0\0\x14ftypqt  ", b"\x1a\x45\xdf\xa3"],
    "TIFF": [b"II*\0" + bytes(99), b"MM\0*" + bytes(99)],
    "SVG": [b"<svg xmlns=''>", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x --><svg/>"],
    "PDF": [b"%PDF-1.7"],
    "JPEG XL": [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "JPEG 2000": [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"],
    "a web page": [b"<!DOCTYPE html><html>", b"<html>"],
}  # fmt: skip


@pytest.mark.parametrize("name", RECOGNISED)
def test_what_is_not_accepted_is_named_with_a_remedy(name: str):
    for data in RECOGNISED[name]:
        refused = refusal(data, EVERY_FORMAT)
        assert refused.code == "unsupported_format"
        assert f"the file is {name}, which is not accepted; " in refused.detail
        assert "JPEG" in refused.detail
    if name == "HEIC":
        assert "Most Compatible" in refused.detail


def test_a_tga_is_not_called_an_icon():
    assert "the file is an icon, which" in refusal(saved(picture(16, 16), "ICO")).detail
    for image in (picture(16, 16), picture(16, 16).convert("L"), picture(16, 16).convert("P")):
        refused = refusal(saved(image, "TGA"), EVERY_FORMAT)
        assert refused.code == "unsupported_format"
        assert "the file is not an image of a known format; " in refused.detail


def with_size(kind: str, width: int, height: int) -> bytes:
    """Return a small file of the kind whose header states another size."""
    file_format, options = KINDS[kind]
    data = bytearray(saved(picture(16, 16), file_format, **options))
    if file_format == "JPEG":
        start = min(at for mark in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(mark)) > 0)
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    elif file_format == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif file_format == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif file_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif file_format == "AVIF":
        start = data.find(b"ispe") + 8
        data[start : start + 8] = struct.pack(">II", width, height)
    elif kind == "WEBP lossless":
        data[21:25] = struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    else:
        data[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    return bytes(data)


# Of an extended WebP the canvas must fit its pictures, so a changed size is damage.
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"WEBP extended"}))
def test_size_is_limited_before_anything_is_decoded(kind: str):
    by_side = refusal(with_size(kind, 12_000, 3), ImageLimits(**vars_of(side=11_999)))
    assert by_side.code == "image_too_large"
    assert "12,000 x " in by_side.detail
    assert refusal(with_size(kind, 9_000, 9_000), EVERY_FORMAT).code == "image_too_large"
    assert inspect(with_size(kind, 7_000, 7_000), EVERY_FORMAT).width == 7_000


def vars_of(**changed: int) -> dict[str, object]:
    return {"formats": EVERY_FORMAT.formats, **changed}


def test_no_pixels_are_no_picture():
    for kind in ("JPEG", "PNG", "BMP"):
        assert refusal(with_size(kind, 0, 5)).code == "corrupt_image"


def with_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    data = saved(picture(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (count - data.count(b"\xff\xda") + 1) + b"\xff\xd9"


def test_scans_are_limited_by_number_and_by_pixels():
    assert inspect(with_scans(64), LIMITS).width == 64
    refused = refusal(with_scans(65))
    assert (refused.code, "more than 64 scans" in refused.detail) == ("image_too_large", True)
    few = ImageLimits(scan_pixels=20 * 64 * 64)
    assert inspect(with_scans(20), few).width == 64
    assert "21 scans of 4,096 pixels" in refusal(with_scans(21), few).detail


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_texts_and_parts_are_limited():
    data = saved(picture(8, 8), "PNG")
    text = png_chunk(b"tEXt", b"k\0" + bytes(1000))
    few = ImageLimits(text_bytes=5000, segments=50)
    assert inspect(data[:33] + text * 4 + data[33:], few).width == 8
    assert "bytes of text" in refusal(data[:33] + text * 6 + data[33:], few).detail
    limit_pillow(few)
    with pytest.raises(ImageRejected, match="bytes of text"):
        with opened_picture(data[:-12] + text * 6 + data[-12:], few) as (image, _):
            image.load()
    packed = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(8 << 20)))
    assert refusal(data[:33] + packed + data[33:], few).code == "image_too_large"
    jpeg = saved(picture(8, 8), "JPEG")
    comment = b"\xff\xfe\x03\xea" + bytes(1000)
    assert inspect(jpeg[:2] + comment * 5 + jpeg[2:], few).width == 8
    assert "bytes of text" in refusal(jpeg[:2] + comment * 6 + jpeg[2:], few).detail
    assert inspect(jpeg[:2] + b"\xff" * 4000 + jpeg[2:], few).width == 8
    assert "bytes of text" in refusal(jpeg[:2] + b"\xff" * 5001 + jpeg[2:], few).detail
    assert "parts" in refusal(jpeg[:2] + b"\xff\xfe\x00\x02" * 51 + jpeg[2:], few).detail


GIF_SCREEN, PNG_HEADER = 13 + 3 * 256, 33  # bytes before the first extension, or further chunk
PARTS = {
    "PNG": (PNG_HEADER, png_chunk(b"abCd", b"")),
    "PNG texts": (PNG_HEADER, png_chunk(b"tEXt", b"")),
    "PNG data": (PNG_HEADER, png_chunk(b"IDAT", b"")),
    "PNG at the end": (-12, png_chunk(b"abCd", b"")),
    "GIF comments": (GIF_SCREEN, b"\x21\xfe\0"),
    "GIF stray bytes": (GIF_SCREEN, b"\0"),
    "WEBP": (12, b"abcd\0\0\0\0"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_10_megabytes_of_tiny_parts_cost_little(kind: str):
    start, part = PARTS[kind]
    data = saved(picture(64, 64), kind.partition(" ")[0])  # colours for a whole palette of a GIF
    data = data[:start] + part * (10_000_000 // len(part)) + data[start:]
    if kind == "WEBP":
        data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    began = time.process_time()
    with suppress(ImageRejected):
        limit_pillow(LIMITS)
        with opened_picture(data, LIMITS) as (opened, _):
            opened.load()
    assert time.process_time() - began < 0.5
    if kind != "WEBP":
        assert "more than 20,000 parts" in refusal(data).detail


def test_blocks_of_a_gif_are_counted_up_to_its_first_frame():
    few = ImageLimits(segments=8)
    data = saved(picture(8, 8), "GIF")
    comment = b"\x21\xfe" + b"\x01a" * 3 + b"\0"  # four parts
    start = 13 + (3 << (data[10] & 7) + 1)
    assert inspect(data[:start] + comment * 2 + data[start:], few).width == 8
    assert "8 parts" in refusal(data[:start] + comment * 2 + b"\0" + data[start:], few).detail
    assert inspect(data[:-1] + comment * 9 + data[-1:], few).width == 8


def test_scans_are_counted_in_linear_time_whatever_the_bytes():
    """10 MiB of what could make a walk slow: none takes a second."""
    jpeg, size = saved(picture(8, 8), "JPEG"), 10 << 20
    at = jpeg.rindex(b"\xff\xda") + 40
    for filling in (b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\x01", b"\xff\xfe\x00\x02", b"\0"):
        for start in (2, at):
            data = jpeg[:start] + filling * (size // len(filling)) + jpeg[start:]
            began = time.process_time()
            with suppress(ImageRejected):
                check_scans(data, LIMITS)
            assert time.process_time() - began < 1.0, (filling, start)


def with_result(data: bytes) -> tuple[int, int] | None:
    try:
        header = inspect(data, EVERY_FORMAT)
    except ImageRejected:
        return None
    return header.width, header.height
