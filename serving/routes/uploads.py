"""Uploads: images and options of a request's body, which is a form, raw bytes or JSON.

The content decides the format of an image, not the file name or the declared type. The body's size
and time are limited before this module reads any of it.
"""

import base64
import json
import re
import string
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from serving.errors import ClientGone
from serving.problems import Problem
from serving.routes.multipart import FormReader

MOST_JSON_MEMBERS = 10_000  # parsed JSON can take 20 times the memory of its text
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair, or one alone
_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_BLANKS = string.whitespace.encode()
# Whatever else is written as base64 needs no escape. Undoing all of them would make an object each.
_ESCAPES = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0D": b"", b"%0A": b"", b"%20": b""}
RAW_TYPES = ("application/octet-stream", "binary/octet-stream", "")


@dataclass(frozen=True)
class Upload:
    """What a body holds: images as files, options as they were written."""

    images: list[bytes]
    options: Mapping[str, Any] = field(default_factory=dict)
    is_json: bool = False  # then a number is a number, and not text


async def read_upload(
    request: Request, *, most_images: int = 1, ignores_fields: bool = False
) -> Upload:
    """Return what the body of `request` holds; one image at least.

    With `ignores_fields` whatever else a form holds is passed over.

    Raises:
        Problem: there is no image, too many, or the body is not what its Content-Type says.
        ClientGone: the client hung up meanwhile.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        upload = await _from_form(
            request, FormReader(content_type, most_images=most_images, keeps=not ignores_fields)
        )
    elif kind == "application/json" or kind.endswith("+json"):
        upload = _from_json(await read_json(request))
    elif kind in RAW_TYPES or kind.startswith("image/"):
        body = await read_body(request)
        upload = Upload([body] if body else [])
    else:
        raise Problem(
            "unsupported_format",
            f"the body's type is {kind[:80]!r}; send multipart/form-data, image/*, "
            "application/octet-stream or application/json",
            closes_connection=True,
        )
    if not upload.images:
        raise Problem(
            "missing_file",
            "the request holds no image; send it as the field 'image' of a form, as the body "
            'itself, or as JSON {"image": "BASE64"}',
        )
    return upload


async def read_body(request: Request) -> bytes:
    """Return the whole body."""
    return b"".join([chunk async for chunk in _chunks(request)])


async def read_json(request: Request) -> dict[str, Any]:
    """Return the body, which is one JSON object."""
    return json_of(await read_body(request))


def json_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is.

    Raises:
        Problem: it is none, or holds more than is ever needed.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_JSON_MEMBERS:
        raise _not_json(f"it has more than {MOST_JSON_MEMBERS:,} members")
    try:
        text = body.decode(json.detect_encoding(body))
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise _not_json("it is malformed") from None
    if not isinstance(value, dict):
        raise _not_json(f"it is a {type(value).__name__}, not an object")
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # an answer that repeats it could not be written
            raise _not_json("it holds half of a surrogate pair") from None
    return value


def image_from_text(text: Any, parameter: str = "image") -> bytes:
    """Return the bytes of an image that is written as base64, or as a `data:` URL of it.

    Harmless spellings are taken too: blanks and line breaks, no padding, the alphabet for URLs,
    percent-encoding of `+`, `/`, `=`, blanks and line breaks. Undoing them costs no more than a few
    passes over the text.

    Raises:
        Problem: it is neither, or an address to fetch from, which this service never does.
    """
    if not isinstance(text, str):
        raise _not_an_image(parameter, "is not text")
    text = text.strip()
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or head.rpartition(";")[2].strip().lower() != "base64":
            raise _not_an_image(parameter, "is a data: URL without ;base64,")
    elif text[:8].lower().startswith(("http:", "https:", "file:", "ftp:")):
        raise _not_an_image(parameter, "is an address; nothing is fetched from elsewhere")
    try:
        return _decode_base64(text)
    except ValueError:  # binascii.Error and UnicodeEncodeError too
        raise _not_an_image(parameter, "is not base64") from None


def _decode_base64(text: str) -> bytes:
    digits = text.encode("ascii")
    try:
        return base64.b64decode(digits, validate=True)
    except ValueError:
        if 3 * digits.count(b"%") > len(digits):  # not even escapes alone; looking is slow
            raise
        if b"%" in digits:
            for escape, character in _ESCAPES.items():
                digits = digits.replace(escape, character)
                digits = digits.replace(escape.lower(), character)
        digits = digits.translate(_URL_ALPHABET, _BLANKS).rstrip(b"=")
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)


async def _from_form(request: Request, form: FormReader) -> Upload:
    is_empty = True
    async for chunk in _chunks(request):
        is_empty = is_empty and not chunk
        form.feed(chunk)
    if is_empty:
        return Upload([])
    form.finish()
    return Upload(form.images, form.fields)


def _from_json(value: dict[str, Any]) -> Upload:
    image = value.pop("image", None)
    images = [] if image in (None, "") else [image_from_text(image)]
    return Upload(images, value, is_json=True)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _not_json(reason: str) -> Problem:
    return Problem("invalid_parameter", f"the body is not the JSON that is expected: {reason}")


def _not_an_image(parameter: str, reason: str) -> Problem:
    return Problem(
        "invalid_parameter",
        f"{parameter} {reason}; send the file as base64 or as a data: URL of base64",
        members={"parameter": parameter},
    )
