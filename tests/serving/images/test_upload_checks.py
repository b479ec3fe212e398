"""The header checks agree with Pillow about sound files and refuse the rest before any decoding."""

import random
import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO

import pytest
from PIL import Image, features

from captioner.errors import OptionError
from serving.errors import ImageRejected
from serving.images.upload_checks import ImageLimits, format_of, inspect

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


@pytest.mark.parametrize("formats", [(), ("TIFF",), ("jpeg",)])
def test_limits_that_allow_nothing_or_the_unknown_are_an_error(formats: tuple[str, ...]):
    with pytest.raises(OptionError, match="choose from JPEG"):
        ImageLimits(formats=formats)
    with pytest.raises(OptionError, match="scans is 0"):
        ImageLimits(scans=0)


def with_size(kind: str, width: int, height: int) -> bytes:
    """Return a small file of the kind whose header states another size."""
    file_format, options = KINDS[kind]
    data = bytearray(saved(picture(16, 16), file_format, **options))
    if file_format == "JPEG":
        start = min(at for mark in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(mark)) > 0)
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    elif file_format == "PNG":
        data[16:24] = struct.pack(">II", width, height)
    elif file_format == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif file_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif file_format == "AVIF":
        start = data.find(b"ispe") + 8
        data[start : start + 8] = struct.pack(">II", width, height)
    elif kind == "WEBP extended":
        data[24:27], data[27:30] = ((side - 1).to_bytes(3, "little") for side in (width, height))
    elif kind == "WEBP lossless":
        data[21:25] = struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    else:
        data[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_size_is_limited_before_anything_is_decoded(kind: str):
    by_side = refusal(with_size(kind, 12_000, 3), ImageLimits(**vars_of(side=11_999)))
    assert by_side.code == "image_too_large"
    assert "12,000 x 3 pixels" in by_side.detail
    assert refusal(with_size(kind, 9_000, 9_000), EVERY_FORMAT).code == "image_too_large"
    assert inspect(with_size(kind, 7_000, 7_000), EVERY_FORMAT).width == 7_000


def vars_of(**changed: int) -> dict[str, object]:
    return {"formats": EVERY_FORMAT.formats, **changed}


def test_no_pixels_are_no_picture():
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
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
    assert "21 scans of 64 x 64" in refusal(with_scans(21), few).detail


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_texts_and_parts_are_limited():
    data = saved(picture(8, 8), "PNG")
    text = png_chunk(b"tEXt", b"k\0" + bytes(1000))
    few = ImageLimits(text_bytes=5000, chunks=50)
    assert inspect(data[:33] + text * 4 + data[33:], few).width == 8
    assert "bytes of text" in refusal(data[:33] + text * 5 + data[33:], few).detail
    assert "bytes of text" in refusal(data[:-12] + text * 5 + data[-12:], few).detail
    assert "parts" in refusal(data[:33] + png_chunk(b"abCd", b"") * 50 + data[33:], few).detail
    jpeg = saved(picture(8, 8), "JPEG")
    comment = b"\xff\xfe\x03\xea" + bytes(1000)
    assert inspect(jpeg[:2] + comment * 5 + jpeg[2:], few).width == 8
    assert "bytes of text" in refusal(jpeg[:2] + comment * 6 + jpeg[2:], few).detail
    assert inspect(jpeg[:2] + b"\xff" * 4000 + jpeg[2:], few).width == 8
    assert "bytes of text" in refusal(jpeg[:2] + b"\xff" * 5001 + jpeg[2:], few).detail
    gif = saved(picture(8, 8), "GIF")
    start = 13 + (3 << ((gif[10] & 7) + 1))
    blocks = b"\x21\xfe" + (b"\xff" + bytes(255)) * 20 + b"\0"
    assert "bytes of text" in refusal(gif[:start] + blocks + gif[start:], few).detail


def test_time_is_linear_whatever_the_bytes():
    """10 MiB of what could make a walk slow: none takes a second."""
    jpeg, size = saved(picture(8, 8), "JPEG"), 10 << 20
    at = jpeg.rindex(b"\xff\xda") + 40
    for filling in (b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\x01", b"\xff\xfe\x00\x02", b"\0"):
        for start in (2, at):
            data = jpeg[:start] + filling * (size // len(filling)) + jpeg[start:]
            began = time.process_time()
            with_result(data)
            assert time.process_time() - began < 1.0, (filling, start)
    png, gif = saved(picture(8, 8), "PNG"), saved(picture(8, 8), "GIF")
    for data in (
        png[:33] + png_chunk(b"abCd", b"") * (size // 12),
        gif[:13] + b"\x21\xfe\x01\x00\x00" * (size // 5),
        b"\0\0\0\x18ftypavif" + bytes(12) + b"\0\0\0\x08free" * (size // 8),
    ):
        began = time.process_time()
        with_result(data)
        assert time.process_time() - began < 1.0


def with_result(data: bytes) -> tuple[int, int] | None:
    try:
        header = inspect(data, EVERY_FORMAT)
    except ImageRejected:
        return None
    return header.width, header.height


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_give_a_header_or_a_refusal_and_never_hide_their_size(kind: str):
    """What Pillow opens has the size that the guard saw."""
    file_format, options = KINDS[kind]
    whole = saved(picture(40, 24), file_format, **options)
    seed, sizes = random.Random(kind), []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(seed.randint(1, 6)):
            at = seed.randrange(min(len(data), 400))
            match seed.randrange(3):
                case 0:
                    data[at] = seed.choice((0, 0xFF, seed.randrange(256)))
                case 1:
                    del data[at : at + seed.randrange(9)]
                case _:
                    data[at:at] = seed.randbytes(seed.randrange(9))
        found = with_result(bytes(data))
        if found is None:
            continue
        with suppress(Exception):  # Pillow's readers raise nearly anything
            with Image.open(BytesIO(data), formats=[file_format]) as opened:
                sizes.append((found, opened.size))
    assert len(sizes) > 20
    assert [found for found, opened in sizes if found != opened] == []
