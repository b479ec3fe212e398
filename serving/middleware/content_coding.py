"""Compressed bodies: those of requests are unpacked, and some answers are packed.

A request's body is unpacked while it arrives, outside of the limits of a body. These count what was
unpacked, so a small body that unpacks to a huge one is cut where any other is. It is unpacked in
pieces, and the event loop runs between them.
"""

import asyncio
import re
import zlib

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import Problem

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's way to name a format
PIECE_BYTES = 64 * 1024
MEMBER_START = b"\x1f\x8b"
MOST_MEMBERS = 1000  # of a gzip body; an empty one costs as much as a piece
SMALL_ANSWER = 1000  # bytes; packing it gains nothing
_ACCEPTED = re.compile(r"([^\s;]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")


class ContentDecoding:
    """ASGI middleware that undoes the `Content-Encoding` of a body: gzip or deflate."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        coding = "identity"
        if scope["type"] == "http":
            coding = Headers(scope=scope).get("content-encoding", coding).strip().lower()
        if coding in WINDOW_BITS:
            receive = _Unpacking(receive, coding).receive
        elif coding not in ("identity", ""):
            raise Problem(
                "unsupported_format",
                f"the body's Content-Encoding is {coding[:40]!r}; send gzip, deflate or none",
                closes_connection=True,
            )
        await self.app(scope, receive, send)


class CompressedAnswers:
    """ASGI middleware that packs answers of the Open Inference Protocol where asked: gzip.

    Packing a file of the page or of the documentation would take the event loop too long.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.packing = GZipMiddleware(app, minimum_size=SMALL_ANSWER, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v2/"):
            await self.app(scope, receive, send)
            return
        # Starlette looks for the letters alone, and adds Vary to what is not packed too. The scope
        # stays the same object, in which the route will be noted.
        accepted = ",".join(Headers(scope=scope).getlist("accept-encoding"))
        told = b"gzip" if allows_gzip(accepted) else b"identity"
        others = [field for field in scope["headers"] if field[0] != b"accept-encoding"]
        scope["headers"] = [*others, (b"accept-encoding", told)]
        await self.packing(scope, receive, send)


def allows_gzip(accepted: str) -> bool:
    """Return whether an `Accept-Encoding` field asks for gzip (RFC 9110, section 12.5.3)."""
    weights = {
        found[1]: float(found[2] or 1)
        for item in accepted.lower().split(",")
        if (found := _ACCEPTED.fullmatch(item.strip(" \t")))
    }
    named = weights.get("gzip", weights.get("x-gzip"))
    return (weights.get("*", 0.0) if named is None else named) > 0


class _Unpacking:
    """The messages of a body, unpacked."""

    def __init__(self, receive: Receive, coding: str) -> None:
        self._receive = receive
        self._coding = coding
        self._unpacker = zlib.decompressobj(WINDOW_BITS[coding])
        self._members = 1
        self._packed = b""  # what has arrived and is not unpacked
        self._is_empty = True  # so far
        self._has_arrived = False  # all of it
        self._is_over = False

    async def receive(self) -> Message:
        if self._is_over:
            return await self._receive()  # only that the client has gone can come
        while True:
            if not self._packed and not self._has_arrived:
                message = await self._next()
                if message is not None:
                    return message
            else:
                await asyncio.sleep(0)
            if self._unpacker.eof and self._packed:
                self._begin_member()
            piece = self._unpack()
            is_all = self._has_arrived and not self._packed
            self._is_over = is_all and (self._unpacker.eof or self._is_empty)
            if piece or self._is_over:
                return {"type": "http.request", "body": piece, "more_body": not self._is_over}
            if is_all:
                raise self._malformed("ends too early")

    async def _next(self) -> Message | None:
        """Take the next part of the body; return what is none."""
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._packed = message.get("body", b"")
        self._is_empty = self._is_empty and not self._packed
        self._has_arrived = not message.get("more_body", False)
        return None

    def _begin_member(self) -> None:
        """Go on behind the end of a gzip member, with the next one (RFC 1952, section 2.2)."""
        if self._coding == "deflate" or not MEMBER_START.startswith(self._packed[:2]):
            raise self._malformed("goes on after its end")
        if self._members == MOST_MEMBERS:
            raise self._malformed(f"has more than {MOST_MEMBERS:,} members")
        self._members += 1
        self._unpacker = zlib.decompressobj(WINDOW_BITS[self._coding])

    def _unpack(self) -> bytes:
        if self._unpacker.eof:
            return b""
        try:
            piece = self._unpacker.decompress(self._packed, PIECE_BYTES)
        except zlib.error:
            raise self._malformed("is damaged") from None
        self._packed = self._unpacker.unused_data or self._unpacker.unconsumed_tail
        return piece

    def _malformed(self, reason: str) -> Problem:
        return Problem(
            "invalid_parameter",
            f"the body, {self._coding} by its Content-Encoding, {reason}",
            closes_connection=True,
        )
