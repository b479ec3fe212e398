"""Hostile images: mutations of valid files, and bombs of known kinds.

All are made from a seed, so one that breaks something can be made again: it is number `index` of
seed `seed`. The bombs follow known weaknesses of formats and of Pillow (docs/serving.md lists the
limits that stop them).
"""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

MUTATIONS_OF_ONE = 8
PNG_START = b"\x89PNG\r\n\x1a\n"
_WORDS = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xda")
_BYTES = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff")


def originals() -> dict[str, bytes]:
    """Return sound files of every format and oddity that the service accepts."""
    values = np.random.default_rng(0).integers(0, 256, (45, 64, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize((128, 90), Image.Resampling.BICUBIC)
    deep = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    frames = {"save_all": True, "append_images": [image.rotate(90)] * 3}
    return {
        "JPEG": _saved(image, "JPEG"),
        "JPEG progressive": _saved(image, "JPEG", progressive=True),
        "JPEG grey": _saved(image.convert("L"), "JPEG"),
        "JPEG CMYK": _saved(image.convert("CMYK"), "JPEG"),
        "JPEG with EXIF": _saved(image, "JPEG", exif=exif),
        "JPEG with a profile": _saved(image, "JPEG", icc_profile=bytes(70_000)),
        "MPO": _saved(image, "MPO", **frames),
        "PNG": _saved(image, "PNG"),
        "PNG 16 bits": _saved(deep, "PNG"),
        "PNG palette": _saved(image.quantize(16), "PNG", transparency=3),
        "PNG with EXIF": _saved(image.convert("RGBA"), "PNG", exif=exif),
        "APNG": _saved(image, "PNG", **frames),
        "WebP": _saved(image, "WEBP"),
        "WebP lossless": _saved(image.convert("RGBA"), "WEBP", lossless=True, exif=exif),
        "WebP animated": _saved(image, "WEBP", **frames),
        "GIF": _saved(image, "GIF"),
        "GIF animated": _saved(image, "GIF", **frames),
        "BMP": _saved(image, "BMP"),
        "BMP palette": _saved(image.quantize(16), "BMP"),
    }


def mutation(seed: int, index: int, cases: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the name and the bytes of mutation `index`."""
    source = random.Random(f"{seed} {index}")
    name = source.choice(list(cases))
    data = bytearray(cases[name])
    for _ in range(source.randint(1, MUTATIONS_OF_ONE)):
        source.choice(_MUTATORS)(data, source, cases)
    return name, bytes(data)


def _flip(data: bytearray, source: random.Random, _: dict[str, bytes]) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _overwrite(data: bytearray, source: random.Random, _: dict[str, bytes]) -> None:
    place = source.randrange(len(data) + 1)
    word = source.choice((*_WORDS, source.randbytes(source.randint(1, 8))))
    data[place : place + len(word)] = word


def _in_header(data: bytearray, source: random.Random, _: dict[str, bytes]) -> None:
    place = source.randrange(min(len(data), 64) or 1)
    data[place : place + 1] = source.choice((*_BYTES, source.randbytes(1)))


def _cut_out(data: bytearray, source: random.Random, _: dict[str, bytes]) -> None:
    place = source.randrange(len(data) + 1)
    del data[place : place + source.randint(1, 256)]


def _repeat(data: bytearray, source: random.Random, _: dict[str, bytes]) -> None:
    place = source.randrange(len(data) + 1)
    data[place:place] = data[place : place + source.randint(1, 512)] * source.randint(1, 20)


def _truncate(data: bytearray, source: random.Random, _: dict[str, bytes]) -> None:
    del data[source.randrange(len(data) + 1) :]


def _splice(data: bytearray, source: random.Random, cases: dict[str, bytes]) -> None:
    other = cases[source.choice(list(cases))]
    place = source.randrange(len(data) + 1)
    data[place:] = other[source.randrange(len(other)) :]


_MUTATORS = (_flip, _flip, _overwrite, _in_header, _cut_out, _repeat, _truncate, _splice)


def bombs() -> dict[str, bytes]:
    """Return small files that promise, or cost, much."""
    image = Image.new("RGB", (64, 64), "navy")
    jpeg, png = _saved(image, "JPEG"), _saved(image, "PNG")
    progressive = _saved(image.resize((1500, 1500)), "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    many = {
        "save_all": True,
        "append_images": [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(200)],
    }
    after_header = 8 + 25
    zeros = zlib.compress(bytes(64 << 20), 9)
    ifd = struct.pack("<HHHIIHHII", 2, 0x0112, 3, 0xFFFFFFFF, 8, 0x8769, 4, 1, 8)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + ifd + struct.pack("<I", 8)
    entries = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff\xff" + bytes(range(1, 13)) * 4000
    mp = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0xB002, 7, 0xFFFFFFF0, 26)
    return {
        "PNG of 50,000 x 50,000": png_of(50_000, 50_000, b""),
        "PNG of 49 million black pixels": png_of(7000, 7000, bytes(7000 * (1 + 3 * 7000))),
        "PNG with fewer rows than it says": png_of(7000, 7000, bytes(1000)),
        "PNG of one row": png_of(20_000, 1, bytes(1 + 60_000)),
        "PNG too wide": png_of(20_001, 1, bytes(1 + 60_003)),
        "PNG with a text of 64 MiB": _with(png, after_header, chunk(b"zTXt", b"k\0\0" + zeros)),
        "PNG with an iTXt of 64 MiB": _with(
            png, after_header, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)
        ),
        "PNG with a profile of 64 MiB": _with(png, after_header, chunk(b"iCCP", b"k\0\0" + zeros)),
        "PNG with 5,000 texts": _with(png, after_header, chunk(b"tEXt", b"k\0v") * 5000),
        "PNG with a header twice": _with(png, after_header, png[8:after_header]),
        "PNG with an EXIF loop": _with(png, after_header, chunk(b"eXIf", exif[6:])),
        "APNG of 201 frames": _saved(image, "PNG", **many),
        "APNG of 4 billion frames": _with(
            png, after_header, chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0))
        ),
        "GIF of 201 frames": _saved(image, "GIF", **many),
        "GIF screen of 65,535 x 65,535": b"GIF89a" + b"\xff" * 4 + _saved(image, "GIF")[10:],
        "WebP of 201 frames": _saved(image, "WEBP", **many),
        "JPEG of 2,000 scans": progressive[:scan] + progressive[scan:-2] * 2000 + b"\xff\xd9",
        "JPEG of 60 scans": progressive[:scan] + progressive[scan:-2] * 50 + b"\xff\xd9",
        "JPEG of 65,500 x 65,500": _resized_jpeg(jpeg, 65_500, 65_500),
        "JPEG of 7,000 x 7,000 without data": _resized_jpeg(jpeg, 7000, 7000),
        "JPEG with an EXIF loop": segment(jpeg, 0xE1, exif),
        "JPEG with 65,535 EXIF entries": segment(jpeg, 0xE1, entries),
        "MPO of 268 million pictures": segment(jpeg, 0xE2, mp),
        "JPEG with 255 profile parts": _with(
            jpeg,
            2,
            b"".join(
                marker(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(60_000))
                for n in range(1, 150)
            ),
        ),
        "JPEG with a comment bomb": _with(jpeg, 2, marker(0xFE, bytes(65_000)) * 100),
        "JPEG of fill bytes": jpeg[:2] + b"\xff" * (5 << 20) + jpeg[2:],
        "BMP with a negative height": _bmp(64, -(2**31)),
        "BMP of 2 billion columns": _bmp(2**31 - 1, 1),
        "BMP of run lengths": _bmp(7000, 7000, bits=8, compression=1),
        "JPEG then PNG": jpeg + png,
        "one byte": b"\xff",
        "a WebP header": b"RIFF\xff\xff\xff\xffWEBPVP8X",
    }


def png_of(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (PNG_START, chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND"))
    )


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def marker(number: int, content: bytes) -> bytes:
    return bytes([0xFF, number]) + struct.pack(">H", len(content) + 2) + content


def segment(jpeg: bytes, number: int, content: bytes) -> bytes:
    return _with(jpeg, 2, marker(number, content))


def _with(data: bytes, place: int, added: bytes) -> bytes:
    return data[:place] + added + data[place:]


def _resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def _bmp(width: int, height: int, *, bits: int = 24, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    palette = bytes(1024) if bits == 8 else b""
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + 64, 0, 0, start) + header + palette + bytes(64)


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    save: Callable[..., None] = image.save
    save(buffer, file_format, **options)
    return buffer.getvalue()
