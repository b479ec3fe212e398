"""A plain server of static files, as a page's host may be."""

import contextlib
import functools
import http.server
import socket
import threading
from pathlib import Path
from typing import Any

ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


class StaticServer:
    """Serves a folder; `asked` are the paths that were asked for."""

    def __init__(self, folder: Path, headers: dict[str, str] | None = None) -> None:
        self.asked: list[str] = []
        self._connections: set[socket.socket] = set()
        asked, added, connections = self.asked, headers or {}, self._connections

        class Handler(http.server.SimpleHTTPRequestHandler):
            def setup(self) -> None:
                super().setup()
                connections.add(self.connection)

            def finish(self) -> None:
                connections.discard(self.connection)
                super().finish()

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
                pass

            def send_head(self) -> Any:
                asked.append(self.path)
                return super().send_head()

            def end_headers(self) -> None:
                for name, value in added.items():
                    self.send_header(name, value)
                super().end_headers()

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        """Answer nothing any more, on the connections that a browser opened beforehand either."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
