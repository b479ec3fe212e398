"""The headers of PNG, WebP, GIF, BMP and AVIF: the size of the picture, and what lies around it.

Each reader walks the parts of its format by their stated lengths up to where the picture's data
are, counts what a limit is set for, and raises `ImageRejected` where a part is not what the format
says. Sources: the PNG specification (W3C), RFC 9649, GIF89a (CompuServe 1990), ISO 14496-12.
"""

from collections.abc import Iterator

from serving.images.header_budget import Budget, corrupt

PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_SMALL = (*PNG_TEXTS, b"iCCP", b"eXIf")  # what a decoder may unpack or parse besides pixels
WEBP_TEXTS = (b"XMP ",)
GIF_EXTENSION, GIF_PICTURE = 0x21, 0x2C
AVIF_PATH = (b"meta", b"iprp", b"ipco")  # from the file to the boxes that state sizes


def png_size(data: bytes, budget: Budget) -> tuple[int, int]:
    """Return width and height from IHDR."""
    if data[12:16] != b"IHDR" or len(data) < 33 or _big(data, 8) != 13:
        raise corrupt("the PNG does not begin with its header")
    width, height = _big(data, 16), _big(data, 20)
    budget.check_size(width, height)
    has_pixels, position = False, 33
    while position + 8 <= len(data):
        length, kind = _big(data, position), data[position + 4 : position + 8]
        if kind == b"IEND":
            break
        budget.add_chunk()
        if kind in PNG_SMALL:
            budget.add_text(length)
        position += 12 + length
        if position > len(data) and not has_pixels and kind != b"IDAT":
            raise corrupt("a chunk of the PNG ends beyond the file")
        has_pixels = has_pixels or kind == b"IDAT"
    if not has_pixels:
        raise corrupt("the PNG holds no picture")
    return width, height


def webp_size(data: bytes, budget: Budget) -> tuple[int, int]:
    """Return width and height from the first chunk, of any of the three kinds."""
    end = 8 + _little(data, 4)
    kind = data[12:16]
    if len(data) < max(end, 25 if kind == b"VP8L" else 30):
        raise corrupt("the WebP is shorter than it says")
    if kind == b"VP8X":
        width, height = (1 + _little(data, at, 3) for at in (24, 27))
    elif kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise corrupt("the WebP does not begin with a key frame")
        width, height = (_little(data, at, 2) & 0x3FFF for at in (26, 28))
    elif kind == b"VP8L":
        if data[20] != 0x2F:
            raise corrupt("the WebP has no lossless header")
        sides = _little(data, 21)
        width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    else:
        raise corrupt("the WebP does not begin with a picture")
    budget.check_size(width, height)
    position = 12
    while position + 8 <= end:
        budget.add_chunk()
        length = _little(data, position + 4)
        if data[position : position + 4] in WEBP_TEXTS:
            budget.add_text(length)
        position += 8 + length + length % 2
    return width, height


def gif_size(data: bytes, budget: Budget) -> tuple[int, int]:
    """Return the size of the screen, enlarged to the first frame where that reaches beyond it."""
    if len(data) < 13:
        raise corrupt("the GIF ends within its header")
    width, height = (_little(data, at, 2) for at in (6, 8))
    budget.check_size(width, height)
    position = 13 + _palette(data[10])
    while position < len(data) and data[position] == GIF_EXTENSION:
        position += 2
        while position < len(data) and (size := data[position]):
            budget.add_chunk()
            budget.add_text(size)
            position += 1 + size
        position += 1
    if data[position : position + 1] != bytes([GIF_PICTURE]) or position + 10 > len(data):
        raise corrupt("the GIF holds no picture")
    left, top, across, down = (_little(data, position + at, 2) for at in (1, 3, 5, 7))
    if not across or not down:
        raise corrupt("the first frame of the GIF is empty")
    width, height = max(width, left + across), max(height, top + down)
    budget.check_size(width, height)
    return width, height


def bmp_size(data: bytes, budget: Budget) -> tuple[int, int]:
    """Return width and height from the device-independent header."""
    if len(data) < 26:
        raise corrupt("the BMP ends within its header")
    if _little(data, 14) == 12:
        width, height = (_little(data, at, 2) for at in (18, 20))
    else:
        width = _little(data, 18)
        height = abs(int.from_bytes(data[22:26], "little", signed=True))
    budget.check_size(width, height)
    return width, height


def avif_size(data: bytes, budget: Budget) -> tuple[int, int]:
    """Return the largest size that a property of the file states."""
    start, end = 0, len(data)
    for name in AVIF_PATH:
        for kind, inner, after in _boxes(data, start, end, budget):
            if kind == name:
                # A "meta" box has a version and flags before its boxes.
                start, end = inner + (4 if kind == b"meta" else 0), after
                break
        else:
            raise corrupt("the AVIF does not say how large its picture is")
    sizes = []
    for kind, inner, _ in _boxes(data, start, end, budget):
        if kind == b"ispe":
            sizes.append((_big(data, inner + 4), _big(data, inner + 8)))
            budget.check_size(*sizes[-1])
    if not sizes:
        raise corrupt("the AVIF does not say how large its picture is")
    return max(sizes, key=lambda size: size[0] * size[1])


def _boxes(
    data: bytes, position: int, end: int, budget: Budget
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of every box, and where its content begins and ends."""
    while position + 8 <= end:
        budget.add_chunk()
        length, inner = _big(data, position), position + 8
        if length == 1:
            length, inner = int.from_bytes(data[inner : inner + 8], "big"), position + 16
        elif length == 0:
            length = end - position
        after = position + length
        if after < inner or after > end:
            raise corrupt("a box of the AVIF ends beyond the file")
        yield data[position + 4 : position + 8], inner, after
        position = after


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _big(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "big")


def _little(data: bytes, position: int, size: int = 4) -> int:
    return int.from_bytes(data[position : position + size], "little")
