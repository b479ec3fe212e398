"""Context of every request: an id, security headers, a line in the log, metrics.

The outermost part of the application, in pure ASGI: every request is counted and logged once, here.
"""

import time
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.answer_headers import SECURITY_HEADERS, request_id_of
from serving.errors import ClientGone
from serving.telemetry.metrics import Metrics
from serving.telemetry.tracing import note

CLIENT_GONE = 499  # nginx's status for a client that left; it is counted and never sent
SHOWN_PATH = 200  # characters

log = structlog.get_logger("serving.request")


class RequestContext:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = request_id_of(headers.get("x-request-id"))
        note(request_id=request_id)
        notes: dict[str, Any] = {}  # what the routes add to the line in the log
        is_head = scope["method"] == "HEAD"
        inner: Scope = {
            **scope,
            "method": "GET" if is_head else scope["method"],
            "state": {
                **scope.get("state", {}),
                "request_id": request_id,
                "started": started,
                "notes": notes,
            },
        }
        status = 0

        async def send_completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                completed = MutableHeaders(raw=list(message["headers"]))
                for name, value in {"X-Request-ID": request_id, **SECURITY_HEADERS}.items():
                    completed.setdefault(name, value)
                message = {**message, "headers": completed.raw}
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(inner, receive, send_completed)
        except ClientGone:
            status = CLIENT_GONE
            self.metrics.cancelled_requests.inc()
        finally:
            self._record(inner, status, time.perf_counter() - started, notes, headers)

    def _record(
        self, scope: Scope, status: int, seconds: float, notes: dict[str, Any], headers: Headers
    ) -> None:
        method = scope["method"]
        # What is refused before the application chose a route is counted for its route too.
        route = getattr(scope.get("route"), "path", None) or scope["state"].get("path") or "none"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        if status >= 400 and status != CLIENT_GONE and "code" in notes:
            self.metrics.rejected.labels(notes["code"]).inc()
        client = scope.get("client")
        log.info(
            "request",
            request_id=scope["state"]["request_id"],
            method=method,
            path=scope["path"][:SHOWN_PATH],
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            client=client[0] if client else None,
            agent=headers.get("user-agent", "")[:SHOWN_PATH],
            **notes,
        )
