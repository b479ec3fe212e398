"""What every request gets, whatever becomes of it: an id, an answer, a line in the log, metrics.

The outermost part of the application, in pure ASGI. All failures end here: what is raised inside
becomes the answer that `problems.py` lists, and what nobody foresaw becomes `internal_error`, with
the traceback in the log and nowhere else.
"""

import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.errors import CaptionerError
from serving.problems import Problem, problem_of, response_to
from serving.routes.uploads import ClientGone
from serving.telemetry.metrics import Metrics
from serving.telemetry.tracing import note

HUNG_UP = 499  # nginx's status for a client that left; it is counted and never sent
SHOWN_PATH = 200  # characters
ROUTES_NOT_FOUND = "none"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")

log = structlog.get_logger("serving.request")


class Envelope:
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
        request_id = _request_id(headers.get("x-request-id"))
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

        async def send_in_envelope(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _completed(message["headers"], request_id)}
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            problem = await self._run(inner, receive, send_in_envelope, lambda: status != 0)
            if problem is not None:
                notes["code"], notes["detail"] = problem.code, problem.detail
                response = response_to(problem, scope["path"], request_id)
                await response(inner, receive, send_in_envelope)
        except ClientGone:
            status = HUNG_UP
            self.metrics.cancelled_requests.inc()
        finally:
            self._record(inner, status, time.perf_counter() - started, notes, headers)

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, has_begun: Any
    ) -> Problem | None:
        """Return the problem that the request has, or None when it was answered."""
        try:
            await self.app(scope, receive, send)
        except Problem as found:
            problem = found
        except ClientGone:
            raise
        except CaptionerError as error:
            problem = problem_of(error)
            if problem.code == "internal_error":
                log.exception("failed", request_id=scope["state"]["request_id"])
        except Exception:
            log.exception("failed", request_id=scope["state"]["request_id"])
            if has_begun():  # too late for an answer; the server closes the connection
                raise
            problem = Problem("internal_error", "the service failed; its log has the cause")
        else:
            return None
        return problem

    def _record(
        self, scope: Scope, status: int, seconds: float, notes: dict[str, Any], headers: Headers
    ) -> None:
        method, route = scope["method"], _route(scope)
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        if status >= 400 and status != HUNG_UP and "code" in notes:
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


def _request_id(given: str | None) -> str:
    """Return the client's id for the request if it is harmless, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def _completed(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    added = {"X-Request-ID": request_id, **SECURITY_HEADERS}
    return [
        *headers,
        *(
            (name.encode().lower(), value.encode())
            for name, value in added.items()
            if name.encode().lower() not in present
        ),
    ]


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", ROUTES_NOT_FOUND)
