"""Limits of a request's body, applied while it arrives and before it is parsed.

Pure ASGI, so it works under every server. A body whose declared length is too large is refused
unread. One with a wrong or missing length is cut at the limit, and a slow one at its deadline. The
bodies of all requests together are limited too, because they are kept in memory.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import Problem

RETRY_SECONDS = 1


class BodyLimit:
    """ASGI middleware whose `receive` raises a `Problem` at the limit of size or time."""

    def __init__(
        self, app: ASGIApp, *, limit_bytes: int, together_bytes: int, timeout_seconds: float
    ) -> None:
        self.app = app
        self.limit_bytes = limit_bytes
        self.together_bytes = together_bytes
        self.held_bytes = 0
        self.timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limit_bytes:
            raise self._too_large(int(declared))
        received, is_complete = 0, False
        deadline = asyncio.get_running_loop().time() + self.timeout_seconds

        async def limited() -> Message:
            nonlocal received, is_complete
            if is_complete:  # the next message can only be that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    "receive_timeout",
                    f"the body did not arrive within {self.timeout_seconds:g} seconds",
                    members={"limit": self.timeout_seconds},
                    closes_connection=True,
                ) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self.held_bytes += size
                if received > self.limit_bytes:
                    raise self._too_large(received)
                if self.held_bytes > self.together_bytes:
                    raise Problem(
                        "overloaded",
                        "the bodies that are being received fill the memory for them; try again "
                        "later",
                        retry_after_seconds=RETRY_SECONDS,
                        closes_connection=True,
                    )
                is_complete = not message.get("more_body", False)
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            self.held_bytes -= received

    def _too_large(self, received: int) -> Problem:
        return Problem(
            "body_too_large",
            f"the body has at least {received:,} bytes, the limit is {self.limit_bytes:,}; send "
            "a smaller or more compressed image",
            members={"limit": self.limit_bytes},
            closes_connection=True,
        )
