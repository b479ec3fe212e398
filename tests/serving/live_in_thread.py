"""A service with a fake model on a real socket, for tests of clients and of bytes."""

import asyncio
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from serving.app import create_app
from serving.server import make_server
from serving.service import Service
from serving.settings import Settings
from serving.startup import listen

from .fake_model import FakeModel


class Live:
    """A service with a fake model on a real socket, in a thread of this process."""

    def __init__(self, fake: FakeModel, **settings: Any) -> None:
        self.fake = fake
        given = Settings.from_environment(
            {}, checkpoint=Path("."), receive_timeout_seconds=2, drain_seconds=3, **settings
        )
        self.service = Service(given)
        listener = listen(given.host, 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = make_server(given, self.service, create_app(given, self.service))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()
        while httpx.get(self.url + "/ready").status_code != 200:
            time.sleep(0.02)

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(10)

    def _serve(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self.server.serve(sockets=[listener]))

    def block(self, seconds: float) -> None:
        """Let the event loop do nothing for some seconds, and return when that has begun."""
        begun = threading.Event()

        def block() -> None:
            begun.set()
            time.sleep(seconds)

        self._loop.call_soon_threadsafe(block)
        begun.wait()

    def send(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """Return all that comes until the service closes the connection, or idles for a while."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            with suppress(ConnectionError):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
            with suppress(TimeoutError, ConnectionError):
                while data := connection.recv(65_536):
                    received += data
        return received

    def metric(self, line: str) -> float:
        text = httpx.get(self.url + "/metrics").text
        found = re.search(rf"^{re.escape(line)} (\S+)", text, re.MULTILINE)
        return float(found[1]) if found else 0.0
