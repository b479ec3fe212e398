"""Progressive JPEGs: the part of a file that a picture of an eighth of its size needs.

A progressive file holds the coefficients of its blocks of 8 x 8 pixels in scans, the means first,
and a decoder reads all scans before it gives a pixel. At an eighth of the size a block becomes one
pixel, its mean. The other scans take nine tenths of the time and change nothing.
"""

import re
from collections.abc import Iterator

# Anything but a stuffed zero, a restart marker, or another fill byte.
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment
END, SCAN = 0xD9, 0xDA
_PROGRESSIVE = 0xC2  # a frame
_NO_RESTARTS = b"\xff\xdd\x00\x04\x00\x00"
_LONGEST_RUN = 32_767  # blocks


def without_fine_scans(data: bytes) -> bytes | None:
    """Return a progressive JPEG without the scans that change nothing at an eighth of its size.

    None where it is not whole, or not one progressive frame: then it is left to the decoder, which
    says what is wrong.
    """
    kept: list[bytes] = [data[:2]]
    blocks: dict[int, int] = {}  # of the components that need no more than means
    is_whole = False
    for marker, segment, coded in _segments(data):
        if marker in FRAMES:
            if marker != _PROGRESSIVE or blocks:
                return None
            blocks = _blocks_of_means(segment)
        elif marker == SCAN:
            if not blocks or len(segment) < 10:
                return None
            component, first_coefficient = segment[5], segment[-3]
            if component in blocks and first_coefficient > 0:
                continue
        is_whole = marker == END
        if not is_whole:
            kept += [segment, coded]
    if not blocks or not is_whole:
        return None
    # A file that says nothing of the finer structure is taken for one that is still arriving, and
    # smoothed (libjpeg, jdcoefct.c): here it says that there is none.
    kept.append(_NO_RESTARTS)
    kept += [_empty_scan(component, count) for component, count in blocks.items()]
    return b"".join([*kept, bytes((0xFF, END))])


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each marker, its segment with its own two bytes first, and the coded data behind.

    The walk stops at the end of the picture, or where a segment cannot be.
    """
    position = 2
    while (found := MARKER.search(data, position)) is not None:
        marker, behind = data[found.start() + 1], found.end()
        if marker not in ALONE and marker != END:
            length = int.from_bytes(data[behind : behind + 2], "big")
            behind += length
            if length < 2 or behind > len(data):
                return
        position = behind
        if marker == SCAN:
            following = MARKER.search(data, behind)
            position = len(data) if following is None else following.start()
        yield marker, data[found.start() : behind], data[behind:position]
        if marker == END:
            return


def _blocks_of_means(frame: bytes) -> dict[int, int]:
    """Return the components of which an eighth needs the means alone, and how many blocks each has.

    A colour that is stored at half the size both ways is decoded at a quarter, which needs more
    (libjpeg, jdmaster.c). Nothing is returned for a frame that cannot be.
    """
    parts = [frame[at : at + 3] for at in range(10, len(frame), 3)]
    if not parts or len(parts[-1]) != 3:
        return {}
    height, width = (int.from_bytes(frame[at : at + 2], "big") for at in (5, 7))
    sampled = {number: (both >> 4, both & 15) for number, both, _ in parts}
    if not all((width, height, *(all(both) for both in sampled.values()))):
        return {}
    most_across, most_down = (max(one) for one in zip(*sampled.values(), strict=True))
    return {
        number: -(-width * across // (8 * most_across)) * -(-height * down // (8 * most_down))
        for number, (across, down) in sampled.items()
        if 2 * across > most_across or 2 * down > most_down
    }


def _empty_scan(component: int, blocks: int) -> bytes:
    """Return a scan of all coefficients but the mean, in which every one of them is zero."""
    # The only code, of one bit: a run of blocks without any, as long as the 14 bits behind it say.
    table = bytes((0xFF, 0xC4, 0, 20, 0x10, 1, *[0] * 15, 0xE0))
    bits = ("0" + "1" * 14) * -(-blocks // _LONGEST_RUN)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return table + bytes((0xFF, SCAN, 0, 8, 1, component, 0, 1, 63, 0)) + coded
