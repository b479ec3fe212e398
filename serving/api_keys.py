"""API keys: kept as SHA-256, compared in constant time, never written anywhere.

Keys are random, so a plain hash is enough. A client sends its key as `Authorization: Bearer KEY` or
as `X-API-Key: KEY`.
"""

import hashlib
import hmac
import re
from pathlib import Path
from typing import NewType

from starlette.datastructures import Headers

KeyHash = NewType("KeyHash", bytes)  # SHA-256 of a key
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_KEY = re.compile(r"[\x21-\x7e]{1,256}")


def hash_key(text: str) -> KeyHash:
    """Return the hash of a key, or the one that is written as sha256:HEX.

    Raises:
        ValueError: it cannot be sent in a header.
    """
    if text.startswith("sha256:"):
        if (found := _HASH.fullmatch(text)) is None:
            raise ValueError("after sha256: give 64 hexadecimal digits")
        return KeyHash(bytes.fromhex(found[1]))
    if _KEY.fullmatch(text) is None:
        raise ValueError("a key is 1 to 256 printable ASCII characters without blanks")
    return KeyHash(hashlib.sha256(text.encode("ascii")).digest())


def hashes_in_file(path: Path) -> tuple[KeyHash, ...]:
    """Return the hashes of the keys in a file: one on a line, empty ones and # lines left out."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = tuple(hash_key(line) for line in lines if line and not line.startswith("#"))
    if not found:
        raise ValueError("it holds no key")
    return found


def matching_key(headers: Headers, allowed: tuple[KeyHash, ...]) -> KeyHash | None:
    """Return which of the `allowed` keys a request carries, or None.

    Every allowed key is compared, so that the time tells nothing.
    """
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    sent = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = hashlib.sha256(sent.encode("latin-1")).digest()
    match = None
    for known in allowed:
        if hmac.compare_digest(digest, known):
            match = known
    return match if sent else None
