"""Compressed bodies, in pieces of any size; the limits hold for what they unpack to."""

import asyncio
import base64
import gzip
import json
import os
import zlib
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from serving.middleware.body_limit import BodyLimit
from serving.middleware.content_coding import (
    MOST_MEMBERS,
    PIECE_BYTES,
    CompressedAnswers,
    ContentDecoding,
)
from serving.problems import Problem

from ..conftest import jpeg, problem, service_with
from ..fake_model import FakeModel

TEXT = os.urandom(PIECE_BYTES) + bytes(3 * PIECE_BYTES) + b"end"
PACKED = {"gzip": gzip.compress(TEXT), "deflate": zlib.compress(TEXT)}


def received(body: bytes, coding: str, step: int, limit: int = len(TEXT)) -> bytes:
    """Return what the application reads of a body that arrives in pieces of `step` bytes."""
    parts = [body[place : place + step] for place in range(0, len(body), step)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
        for index, part in enumerate(parts)
    ]
    read = b""

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        nonlocal read
        more = True
        while more:
            message = await receive()
            read, more = read + message["body"], message["more_body"]
        assert (await receive())["type"] == "http.disconnect"

    limited = BodyLimit(reading, limit_bytes=limit, together_bytes=10**9, timeout_seconds=60.0)
    scope = {"type": "http", "headers": [(b"content-encoding", coding.encode())]}
    asyncio.run(ContentDecoding(limited)(scope, receive, None))  # type: ignore[arg-type]
    return read


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("step", [997, PIECE_BYTES, 10**6])
def test_a_body_is_the_same_in_pieces_of_any_size(coding: str, step: int) -> None:
    assert received(PACKED[coding], coding, step) == TEXT
    assert received(b"", coding, step) == b""
    assert received(PACKED[coding], "identity", step) == PACKED[coding]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES])
def test_no_size_is_special(size: int) -> None:
    assert received(gzip.compress(bytes(size)), "GZip", 10) == bytes(size)
    assert received(zlib.compress(bytes(size)), "deflate", 10**6) == bytes(size)


@pytest.mark.parametrize("step", [1, 19, 997, 10**6])
def test_a_body_of_several_members_is_one_text(step: int) -> None:
    parts = [b"", b"{", TEXT[PIECE_BYTES - 300 :], b"", b"}"]
    body = b"".join(map(gzip.compress, parts))
    assert gzip.decompress(body) == b"".join(parts)
    assert received(body, "gzip", step) == b"".join(parts)
    with pytest.raises(Problem) as caught:
        received(body, "gzip", step, limit=len(TEXT) - PIECE_BYTES)
    assert caught.value.code == "body_too_large"


def test_the_members_of_a_body_are_limited() -> None:
    assert received(gzip.compress(b"") * MOST_MEMBERS, "gzip", 10**6) == b""
    with pytest.raises(Problem, match=r"more than 1,000 members"):
        received(gzip.compress(b"") * (MOST_MEMBERS + 1), "gzip", 10**6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PACKED["gzip"][:-1], "ends too early"),
        (PACKED["gzip"][:100], "ends too early"),
        (PACKED["gzip"] + b"x", "goes on after its end"),
        (PACKED["gzip"] + bytes(9), "goes on after its end"),
        (PACKED["gzip"] + PACKED["deflate"], "goes on after its end"),
        (PACKED["gzip"] + b"\x1f", "ends too early"),
        (PACKED["gzip"] + PACKED["gzip"][:-1], "ends too early"),
        (PACKED["gzip"] + b"\x1f\x8b" + bytes(9), "is damaged"),
        (b"x" + PACKED["gzip"], "is damaged"),
        (PACKED["deflate"], "is damaged"),
        (PACKED["gzip"][:-8] + bytes(8), "is damaged"),
    ],
    ids=[
        *("short", "cut", "longer", "padded", "with another coding", "with a byte", "with a part"),
        *("with a damaged one", "shifted", "of another coding", "with another sum"),
    ],
)
@pytest.mark.parametrize("step", [1013, 10**6])
def test_a_damaged_body_is_refused(body: bytes, words: str, step: int) -> None:
    with pytest.raises(Problem) as caught:
        received(body, "gzip", step, limit=2 * len(TEXT))
    assert caught.value.code == "invalid_parameter"
    assert f"gzip by its Content-Encoding, {words}" in caught.value.detail


def test_what_it_unpacks_to_is_limited_and_no_more_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unpacked = 0

    class Counting:
        def __init__(self, *given: Any) -> None:
            self._inner = real(*given)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def decompress(self, *given: Any) -> bytes:
            nonlocal unpacked
            piece = self._inner.decompress(*given)
            unpacked += len(piece)
            return piece

    real = zlib.decompressobj
    bomb = gzip.compress(bytes(50_000_000), 9)
    assert len(bomb) < 100_000
    monkeypatch.setattr("serving.middleware.content_coding.zlib.decompressobj", Counting)
    with pytest.raises(Problem) as caught:
        received(bomb, "gzip", 10**6, limit=1_000_000)
    assert caught.value.code == "body_too_large"
    assert unpacked <= 1_000_000 + PIECE_BYTES


def test_every_route_takes_packed_bodies(model: FakeModel) -> None:  # noqa: ARG001
    encoded = json.dumps({"image": base64.b64encode(jpeg()).decode()}).encode()
    with service_with(body_limit_bytes=10_000) as client:

        def ask(coding: str, body: bytes) -> Any:
            headers = {"content-encoding": coding, "content-type": "application/json"}
            return client.post("/caption", content=body, headers=headers)

        assert ask("gzip", gzip.compress(encoded)).status_code == 200
        assert ask("deflate", zlib.compress(encoded)).status_code == 200
        assert problem(ask("br", encoded)) == (415, "unsupported_format")
        assert "'br'; send gzip, deflate or none" in ask("br", encoded).json()["detail"]
        assert problem(ask("gzip", encoded)) == (422, "invalid_parameter")
        assert problem(ask("gzip", gzip.compress(bytes(20_000)))) == (413, "body_too_large")
        assert client.get("/version", headers={"content-encoding": "gzip"}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        *((field, True) for field in ("gzip", "GZIP", "x-gzip", "*", "deflate, Gzip ;q=0.001")),
        *((field, True) for field in ("br;q=1.0, *;q=0.1", "gzip;q=1, *;q=0", ", gzip,", "*;Q=1.")),
        *((field, False) for field in (None, "", "identity", "notgzip", "gzipped, br", "gzip;q=0")),
        *((field, False) for field in ("identity, gzip;q=0", "gzip;q=0.000, *", "*;q=0", "gzip;x")),
        ("gzip;q=0\n*", False),
        ("br\ngzip", True),
    ],
)
def test_answers_are_packed_where_the_client_takes_it(
    accepted: str | None, is_packed: bool
) -> None:
    lines = [] if accepted is None else accepted.split("\n")
    fields = [(b"accept-encoding", line.encode()) for line in lines]
    sent: list[Message] = []

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": TEXT})

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v2/models", "headers": [(b"host", b"x"), *fields]}
    asyncio.run(CompressedAnswers(answering)(scope, None, send))  # type: ignore[arg-type]
    start, body = sent
    headers = Headers(raw=start["headers"])
    assert headers["vary"] == "Accept-Encoding"
    assert headers.get("content-encoding") == ("gzip" if is_packed else None)
    assert (gzip.decompress(body["body"]) if is_packed else body["body"]) == TEXT
