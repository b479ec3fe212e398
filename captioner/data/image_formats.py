"""Formats of image files, recognised by name or by the first bytes."""

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
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


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


def unreadable_format(name: str, head: bytes) -> str:
    """Return the name of an image format that cannot be read here, or "" where it is none.

    `head` are the first bytes of the file, which count more than its name.
    """
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIC_BRANDS and b"avif" not in head[:64]:
            return "HEIC"
        if head[8:12] == b"crx ":
            return UNREADABLE[".cr3"]
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return UNREADABLE[".jxl"]
    if head.lstrip().startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return UNREADABLE[".svg"]
    return UNREADABLE.get(Path(name).suffix.lower(), "")
