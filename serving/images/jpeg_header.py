"""The markers of a JPEG file, walked from the first to the last without decoding anything.

The walk goes where libjpeg's would (jdmarker.c): segments by their stated length, the coded data
of a scan up to the next marker. Before the first scan damage is an error; after it the walk only
stops, for then the decoder has a picture and stops there as well.
"""

import re

from serving.images.header_budget import Budget, corrupt

# Anything but a stuffed zero, a restart marker, or another fill byte.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment
_END, _SCAN, _COMMENT = 0xD9, 0xDA, 0xFE


def jpeg_size(data: bytes, budget: Budget) -> tuple[int, int]:
    """Return width and height; every scan and comment of the file is counted.

    Raises:
        ImageRejected: there is no frame or no scan, or a limit is passed.
    """
    size: tuple[int, int] | None = None
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        if not budget.scans_met:  # Pillow takes fill bytes one by one, at a microsecond each
            budget.add_text(found.start() - position)
        marker, position = data[found.start() + 1], found.end()
        if marker in _ALONE:
            budget.add_chunk()
            continue
        if marker == _END:
            break
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2 or position + length > len(data):
            if budget.scans_met:
                break
            raise corrupt("a segment of the JPEG ends beyond the file")
        budget.add_chunk()
        if marker in _FRAMES:
            if size is not None:
                raise corrupt("the JPEG has two frames")
            if length < 8:
                raise corrupt("the JPEG's frame is too short")
            height, width = (
                int.from_bytes(data[position + at : position + at + 2], "big") for at in (3, 5)
            )
            budget.check_size(width, height)
            size = width, height
        elif marker == _COMMENT:
            budget.add_text(length - 2)
        elif marker == _SCAN:
            if size is None:
                raise corrupt("the JPEG has a scan before its frame")
            budget.add_scan(*size)
        position += length
    if size is None or not budget.scans_met:
        raise corrupt("the JPEG holds no picture")
    return size
