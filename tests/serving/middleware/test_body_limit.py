"""The limit of all bodies together; those of one body are tested where bodies are sent."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serving.middleware.body_limit import BodyLimit
from serving.problems import Problem


class Sender:
    """A client whose body comes in pieces, when a test lets it."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def send(self, size: int, *, more: bool) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": bytes(size), "more_body": more})


async def reading(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    while (await receive())["more_body"]:
        pass


def test_bodies_are_bounded_together_and_give_their_room_back() -> None:
    async def test() -> None:
        app = BodyLimit(reading, limit_bytes=100, together_bytes=150, timeout_seconds=60.0)
        scope = {"type": "http", "headers": []}
        first, second, third = Sender(), Sender(), Sender()
        one = asyncio.create_task(app(scope, first.pieces.get, None))
        first.send(100, more=True)
        second.send(51, more=False)
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await app(scope, second.pieces.get, None)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after_seconds == 1
        third.send(50, more=False)
        await app(scope, third.pieces.get, None)
        assert app.held_bytes == 100
        first.send(0, more=False)
        await one
        assert app.held_bytes == 0

    asyncio.run(test())
