"""Hostile images: thousands of mutations of valid files, and bombs, sent to the real service.

All are made from a seed, so one that breaks something can be made again: it is number `index` of
seed `seed`. The bombs follow known weaknesses of formats and of Pillow (docs/serving.md lists the
limits that stop them).
"""

import asyncio
import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from captioner.progress import Progress
from stress import Report, StressOptions
from stress.client import Exchange, ask, statuses
from stress.target import Target

ALLOWED = (200, 413, 415, 422)
FORMS = ("image/jpeg", "application/octet-stream")
MUTATIONS_OF_ONE = 8
PNG_START = b"\x89PNG\r\n\x1a\n"
_WORDS = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xda")
_WAYS = (
    *("flip a bit", "flip a bit", "overwrite", "change the header"),
    *("cut out", "repeat", "truncate", "splice"),
)
_BYTES = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff")


async def mutations(target: Target, report: Report, options: StressOptions) -> None:
    """Report on `count` mutations of `seed`; files with a wrong answer go to the folder `keep`."""
    cases, loud = originals(), bombs()
    before = await asyncio.to_thread(target.levels)
    killed = await asyncio.to_thread(target.metric, "caption_decode_killed_total")
    with Progress(len(cases) + len(loud) + options.count, "mutations", unit="images") as progress:
        sound = dict(await _send(target, list(cases.items()), progress))
        bombed = dict(await _send(target, list(loud.items()), progress))
        mutated = (mutation(options.seed, index, cases) for index in range(options.count))
        sent: list[tuple[str, Exchange]] = []
        while batch := list(islice(mutated, 200)):
            sent += await _send(target, batch, progress)
            for (name, data), (_, one) in zip(batch, sent[-len(batch) :], strict=True):
                if one.status not in ALLOWED and options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    label = f"{name.replace(' ', '_')}-{one.status}-{one.request_id}"
                    (options.keep / label).write_bytes(data)
    found = [one for _, one in sent]
    refused = [name for name, one in sound.items() if one.status != 200]
    report.demand("sound files of every kind that are not captioned", refused, not refused)
    report.figure("bombs", {name: one.status for name, one in bombed.items()})
    slowest = max(bombed, key=lambda name: bombed[name].seconds)
    report.figure("slowest bomb", {slowest: bombed[slowest].seconds})
    report.figure("mutations", statuses(found))
    report.figure("slowest mutation, seconds", max(one.seconds for one in found))
    still = Counter(name for name, one in sent if one.status == 200)
    report.figure("mutations that are still captioned", dict(still))
    everything = [*sound.values(), *bombed.values(), *found]
    wrong = statuses(one for one in everything if one.status not in ALLOWED)
    report.demand("only 200, 413, 415 and 422", wrong, not wrong)
    refusals = [one.headers for one in everything if one.status in ALLOWED[1:]]
    bare = sum("problem+json" not in head.get("content-type", "") for head in refusals)
    report.demand("every refusal is a problem", bare, not bare)
    report.demand("unforeseen failures in the log", target.failures(), not target.failures())
    now = await asyncio.to_thread(target.metric, "caption_decode_killed_total")
    report.figure("decoding processes killed", now - killed)
    after = await target.settled_levels()
    report.figure("memory before and after, MiB", [before.memory_mib, after.memory_mib])
    report.demand("ready at the end", target.is_ready(), target.is_ready())


async def _send(
    target: Target, uploads: Sequence[tuple[str, bytes]], progress: Progress
) -> list[tuple[str, Exchange]]:
    places = asyncio.Semaphore(4)
    path = "/caption?beam_size=1&max_length=1"  # short: what is tested here is before the model

    async def one(index: int, name: str, data: bytes) -> tuple[str, Exchange]:
        async with places:
            exchange = await ask(target.address, data, kind=FORMS[index % len(FORMS)], path=path)
        progress.advance()
        return name, exchange

    return await asyncio.gather(*(one(index, *upload) for index, upload in enumerate(uploads)))


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
        _mutate(data, source, cases)
    return name, bytes(data)


def _mutate(data: bytearray, source: random.Random, cases: dict[str, bytes]) -> None:
    """Change some bytes in one of the ways that files break."""
    way = source.choice(_WAYS)
    other = cases[source.choice(list(cases))] if way == "splice" else b""
    if way == "flip a bit":
        if data:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        return
    if way == "change the header":
        place = source.randrange(min(len(data), 64) or 1)
        data[place : place + 1] = source.choice((*_BYTES, source.randbytes(1)))
        return
    place = source.randrange(len(data) + 1)
    match way:
        case "overwrite":
            word = source.choice((*_WORDS, source.randbytes(source.randint(1, 8))))
            data[place : place + len(word)] = word
        case "cut out":
            del data[place : place + source.randint(1, 256)]
        case "repeat":
            part = data[place : place + source.randint(1, 512)]
            data[place:place] = part * source.randint(1, 20)
        case "truncate":
            del data[place:]
        case "splice":
            data[place:] = other[source.randrange(len(other)) :]


def bombs() -> dict[str, bytes]:
    """Return small files that promise, or cost, much."""
    image = Image.new("RGB", (64, 64), "navy")
    jpeg, png = _saved(image, "JPEG"), _saved(image, "PNG")
    progressive = _saved(image.resize((1500, 1500)), "JPEG", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(200)]
    many = {"save_all": True, "append_images": frames}
    after_header = 8 + 25

    def in_png(added: bytes) -> bytes:
        return _with(png, after_header, added)

    zeros = zlib.compress(bytes(64 << 20), 9)
    ifd = struct.pack("<HHHIIHHII", 2, 0x0112, 3, 0xFFFFFFFF, 8, 0x8769, 4, 1, 8)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + ifd + struct.pack("<I", 8)
    entries = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff\xff" + bytes(range(1, 13)) * 4000
    part = b"ICC_PROFILE\0%c\xff" + bytes(60_000)
    profile = (marker(0xE2, part % n) for n in range(1, 150))
    mp = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0xB002, 7, 0xFFFFFFF0, 26)
    return {
        "PNG of 50,000 x 50,000": png_of(50_000, 50_000, b""),
        "PNG of 49 million black pixels": png_of(7000, 7000, bytes(7000 * (1 + 3 * 7000))),
        "PNG with fewer rows than it says": png_of(7000, 7000, bytes(1000)),
        "PNG of one row": png_of(20_000, 1, bytes(1 + 60_000)),
        "PNG too wide": png_of(20_001, 1, bytes(1 + 60_003)),
        "PNG with a text of 64 MiB": in_png(chunk(b"zTXt", b"k\0\0" + zeros)),
        "PNG with an iTXt of 64 MiB": in_png(chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)),
        "PNG with a profile of 64 MiB": in_png(chunk(b"iCCP", b"k\0\0" + zeros)),
        "PNG with 5,000 texts": in_png(chunk(b"tEXt", b"k\0v") * 5000),
        "PNG with a header twice": in_png(png[8:after_header]),
        "PNG with an EXIF loop": in_png(chunk(b"eXIf", exif[6:])),
        "APNG of 201 frames": _saved(image, "PNG", **many),
        "APNG of 4 billion frames": in_png(chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0))),
        "GIF of 201 frames": _saved(image, "GIF", **many),
        "GIF screen of 65,535 x 65,535": b"GIF89a" + b"\xff" * 4 + _saved(image, "GIF")[10:],
        "WebP of 201 frames": _saved(image, "WEBP", **many),
        "JPEG of 2,000 scans": progressive[:scan] + progressive[scan:-2] * 2000 + b"\xff\xd9",
        "JPEG of 60 scans": progressive[:scan] + progressive[scan:-2] * 50 + b"\xff\xd9",
        "JPEG of 65,500 x 65,500": _resized_jpeg(jpeg, 65_500, 65_500),
        "JPEG of 7,000 x 7,000 without data": _resized_jpeg(jpeg, 7000, 7000),
        "JPEG with an EXIF loop": _with(jpeg, 2, marker(0xE1, exif)),
        "JPEG with 65,535 EXIF entries": _with(jpeg, 2, marker(0xE1, entries)),
        "MPO of 268 million pictures": _with(jpeg, 2, marker(0xE2, mp)),
        "JPEG with 255 profile parts": _with(jpeg, 2, b"".join(profile)),
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
    data = zlib.compress(rows, 9)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND")


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def marker(number: int, content: bytes) -> bytes:
    return bytes([0xFF, number]) + struct.pack(">H", len(content) + 2) + content


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
