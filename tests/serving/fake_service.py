"""A fake service: the page, its security headers, and answers that a test prescribes.

It speaks the format of `POST /caption`, so that a test can have errors, waits and attention exactly
where it wants them.
"""

import asyncio
import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

PAGE = Path(__file__).resolve().parents[2] / "serving" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".jpg": "image/jpeg",
}
TOKENS = ["a", "dog", "runs", "through", "the", "grass"]


def caption(rank: int, tokens: list[str], *, attention: bool) -> dict[str, Any]:
    """Return a caption whose word number i looks at the cell i of a grid of 3 by 3."""
    found: dict[str, Any] = {
        "text": " ".join(tokens),
        "tokens": tokens,
        "log_prob": -2.5 - rank,
        "score": -(2.5 + rank) / len(tokens),
        "probability": 0.082085 / (rank + 1),
        "confidence": 0.62 / (rank + 1),
        "word_probabilities": [0.9, 0.6, 0.3, 0.08, 0.95, 0.7, *[0.5] * len(tokens)][: len(tokens)],
        "end_probability": 0.8,
    }
    if attention:
        cells = [[float(cell == word) for cell in range(9)] for word in range(len(tokens))]
        found["attention"] = [[line[0:3], line[3:6], line[6:9]] for line in cells]
        looks = [[0.6, 0.1] if token == "dog" else [0.05, 0.0] for token in tokens]
        found["attribute_attention"] = looks
        found["shares"] = {"sentinel": [word / len(tokens) for word in range(len(tokens))]}
    return found


def answer(count: int, *, attention: bool = True) -> dict[str, Any]:
    captions = [
        caption(rank, [*TOKENS, *["again"] * rank], attention=attention) for rank in range(count)
    ]
    image: dict[str, Any] = {"width": 60, "height": 40, "format": "JPEG"}
    if attention:
        image["seen"] = [0.0, 0.0, 1.0, 1.0]
        image["attributes"] = [
            {"word": "dog", "probability": 0.83},
            {"word": "grass", "probability": 0.1},
        ]
    return {
        "caption": captions[0]["text"],
        "captions": captions,
        "image": image,
        "model": {"name": "fake", "hash": "0" * 64},
        "timing_ms": {"queue": 0.1, "decode": 1.0, "encode": 2.0, "search": 3.0, "total": 6.5},
        "request_id": "r-1",
    }


def problem(status: int, code: str, title: str, detail: str) -> dict[str, Any]:
    return {
        "type": f"problems#{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "r-1",
    }


class FakeService:
    """Serves on a free port of this machine until `close`.

    `script` holds what the next requests get, as (status, headers, body); once it is empty, every
    request gets captions. `asked` lists the requests as they came.
    """

    def __init__(self) -> None:
        self.script: deque[tuple[int, dict[str, str], dict[str, Any] | bytes]] = deque()
        self.asked: list[dict[str, Any]] = []
        self.key: str | None = None
        self.delay_seconds = 0.0
        self.most_at_once = self._at_once = 0
        config = uvicorn.Config(
            self._app, port=0, interface="asgi3", log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def reset(self) -> None:
        self.script.clear()
        self.asked.clear()
        self.key, self.delay_seconds, self.most_at_once = None, 0.0, 0

    def refuse(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        retry_after: str | None = None,
        parameter: str | None = None,
    ) -> None:
        headers = {"content-type": "application/problem+json"}
        if retry_after is not None:
            headers["retry-after"] = retry_after
        told = problem(status, code, title, detail)
        self.script.append(
            (status, headers, told | ({"parameter": parameter} if parameter else {}))
        )

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["method"] == "POST" and scope["path"] == "/caption":
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            await asyncio.sleep(self.delay_seconds)
            status, headers, content = self._caption(scope, body)
            self._at_once -= 1
        else:
            status, headers, content = self._page(scope["path"])
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        encoded = [(name.encode(), text.encode()) for name, text in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": content})

    def _caption(
        self, scope: dict[str, Any], body: bytes
    ) -> tuple[int, dict[str, str], dict[str, Any] | bytes]:
        headers = {name.decode(): text.decode() for name, text in scope["headers"]}
        query = {name: texts[0] for name, texts in parse_qs(scope["query_string"].decode()).items()}
        self.asked.append({"query": query, "headers": headers, "body": body})
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            told = problem(401, "unauthorized", "A valid key is needed", "Send the key.")
            return 401, {"content-type": "application/problem+json"}, told
        if self.script:
            return self.script.popleft()
        count = int(query.get("num_captions", 1))
        found = answer(count, attention=query.get("attention") == "true")
        return 200, {"content-type": "application/json"}, found

    def _page(self, path: str) -> tuple[int, dict[str, str], bytes]:
        file = PAGE / (path.strip("/") or "index.html")
        if file.parent not in (PAGE, PAGE / "examples") or not file.is_file():
            return 404, {"content-type": "text/plain"}, b"there is nothing here"
        headers = {"content-type": TYPES[file.suffix], "content-security-policy": POLICY}
        return 200, headers, file.read_bytes()
