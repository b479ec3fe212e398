"""Firefox, driven over its own protocol (Marionette), as Debian packages it."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

SECONDS = 120


class Firefox:
    """A browser without a window, with an empty profile in `folder`."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
        self._process = subprocess.Popen(
            [program, "--headless", "--marionette", "--no-remote", "--profile", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._socket = self._connected(port)
        self._stream = self._socket.makefile("rwb")
        self._number = 0
        self._hear()
        self.ask("WebDriver:NewSession", capabilities={})

    def ask(self, command: str, **parameters: Any) -> Any:
        """Return what a command of WebDriver gives."""
        self._number += 1
        message = json.dumps([0, self._number, command, parameters]).encode()
        self._stream.write(b"%d:%s" % (len(message), message))
        self._stream.flush()
        _, _, error, value = self._hear()
        assert error is None, error
        return value

    def run(self, script: str) -> Any:
        """Return what a script in the page returns."""
        return self.ask("WebDriver:ExecuteScript", script=script, args=[])["value"]

    def put(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        found = self.ask("WebDriver:FindElement", using="css selector", value=selector)
        (element,) = found["value"].values()
        self.ask("WebDriver:ElementSendKeys", id=element, text=str(path))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)

    def _connected(self, port: int) -> socket.socket:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
            except OSError:
                assert time.monotonic() < deadline, "Firefox does not answer"
                time.sleep(0.2)

    def _hear(self) -> Any:
        size = b""
        while not size.endswith(b":"):
            size += self._stream.read(1)
        return json.loads(self._stream.read(int(size[:-1])))
