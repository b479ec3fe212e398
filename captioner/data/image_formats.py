"""Formats of image files, recognised by name or by the first bytes."""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image

HEAD_BYTES = 1024  # in which a format shows itself
# What Pillow registers and cannot decode by itself, or what holds no photograph.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_RAW_SUFFIXES = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
UNREADABLE = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), "HEIC"),
    **dict.fromkeys(_RAW_SUFFIXES.split(), "a camera's raw format"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), "JPEG XR"),
    **dict.fromkeys((".svg", ".svgz"), "SVG"),
    **dict.fromkeys((".eps", ".wmf", ".emf"), "a vector drawing"),
    ".exr": "OpenEXR",
    ".xcf": "GIMP's own format",
}
# Formats that show themselves in their first bytes; those of others are found in any file.
_TOLD_BY_CONTENT = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
# The order counts: a brand of ISO base media files is looked for before a general one.
_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM",
    "AVIF": rb"....ftyp(?:....)*?avi[fs]",
    "HEIC": rb"....ftyp(?:....)*?(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "a Canon raw file": rb"....ftypcrx ",
    "a video": rb"....ftyp|....moov|\x1a\x45\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01\xba",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "PDF": rb"\s*%PDF-",
    "a Photoshop file": rb"8BPS",
    "an icon": rb"\0\0[\x01\x02]\0[^\0]\0",  # of one picture at least; a TGA has a zero there
    "a ZIP file": rb"PK[\x03\x05]",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<(?:\?xml|!--|!doctype svg).*?)?<svg",
    "a web page": rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html|<head|<body)",
}
_PATTERNS = {
    name: re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL)
    for name, pattern in _SIGNATURES.items()
}
_UNREADABLE_CONTENT = {  # names of signatures, in the words of `UNREADABLE`
    "HEIC": "HEIC",
    "a Canon raw file": UNREADABLE[".cr3"],
    "JPEG XL": "JPEG XL",
    "SVG": "SVG",
}


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the endings of names, in lower case, of formats that Pillow decodes here."""
    Image.init()
    return frozenset(
        suffix
        for suffix, form in Image.registered_extensions().items()
        if form in Image.OPEN and form not in _NOT_DECODED
    )


def is_image_file(path: Path) -> bool:
    """Whether a file looks like an image, readable or not: by its name, else by its content."""
    suffix = path.suffix.lower()
    if suffix in readable_suffixes() or suffix in UNREADABLE:
        return True
    with suppress(Exception):  # Pillow's readers raise nearly anything
        with path.open("rb") as file:
            if unreadable_format("", file.read(HEAD_BYTES)):
                return True
        with Image.open(path, formats=_TOLD_BY_CONTENT):
            return True
    return False


def recognised(data: bytes) -> str | None:
    """Return the name of the format that the first bytes show, or None; constant time."""
    start = data[:HEAD_BYTES]
    if start[4:8] == b"ftyp":  # only the brands, and not what follows them
        start = start[: max(12, int.from_bytes(start[:4], "big"))]
    return next((name for name, one in _PATTERNS.items() if one.match(start)), None)


def unreadable_format(name: str, head: bytes) -> str:
    """Return the name of an image format that cannot be read here, or "" where it is none.

    `head` are the first bytes of the file, which count more than its name.
    """
    by_content = _UNREADABLE_CONTENT.get(recognised(head) or "")
    return by_content or UNREADABLE.get(Path(name).suffix.lower(), "")
