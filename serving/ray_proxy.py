"""Middleware of Ray's HTTP proxy: whose replica died before it answered is told to try again.

Ray alone answers such a request with 500. The proxies take this in where they run with

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serving.ray_proxy:middleware
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.answer_headers import SECURITY_HEADERS, request_id_of
from serving.errors import NotReady
from serving.problems import problem_of, response_to


def middleware() -> list[Middleware]:
    """Return the middleware of a proxy, for Ray to add."""
    return [Middleware(LostReplica)]


class LostReplica:
    """Answers 503 where nobody has begun to answer: a caption can be asked for again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_begun = is_client_there = False

        async def receive_knowingly() -> Message:
            nonlocal is_client_there
            message = await receive()
            is_client_there = message["type"] != "http.disconnect"
            return message

        async def send_knowingly(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        await self._app(scope, receive_knowingly, send_knowingly)
        if is_client_there and not is_begun:
            problem = problem_of(NotReady("the process that had this request ended; send it again"))
            identity = request_id_of(Headers(scope=scope).get("x-request-id"))
            response = response_to(problem, scope["path"], identity)
            response.headers.update(SECURITY_HEADERS)
            await response(scope, receive, send)
