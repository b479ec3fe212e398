"""File formats, recognised by their first bytes, and advice for those that are not accepted."""

import re

DECODABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
_LOOKED_AT = 512  # bytes

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
    "an icon": rb"\0\0[\x01\x02]\0.\0",
    "a ZIP file": rb"PK[\x03\x05]",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<(?:\?xml|!--|!doctype svg).*?)?<svg",
    "a web page": rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html|<head|<body)",
}
_PATTERNS = {
    name: re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL)
    for name, pattern in _SIGNATURES.items()
}
_ADVICE = {
    "HEIC": "convert it to JPEG; an iPhone takes JPEG with Settings, Camera, Formats, Most "
    "Compatible",
    "a video": "send one of its pictures as JPEG",
    "PDF": "save the page as a picture, as JPEG or PNG",
    "SVG": "export it as PNG",
    "a web page": "send the picture itself; perhaps it could not be fetched",
    "a ZIP file": "unpack it and send a picture",
}


def recognised(data: bytes) -> str | None:
    """Return the name of the format that the first bytes show, or None; constant time."""
    start = data[:_LOOKED_AT]
    if start[4:8] == b"ftyp":  # only the brands, and not what follows them
        start = start[: max(12, int.from_bytes(start[:4], "big"))]
    return next((name for name, one in _PATTERNS.items() if one.match(start)), None)


def remedy(name: str) -> str:
    """Return what to do about a picture in a format that is not accepted."""
    return _ADVICE.get(name, "convert it to JPEG or PNG")
