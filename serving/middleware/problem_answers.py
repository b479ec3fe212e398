"""Answers to failed requests: an exception raised inside becomes an answer of `problems.py`.

An unexpected exception becomes `internal_error`, with the traceback in the log only. This
middleware is inside the rules for other origins, so that a page of an allowed origin can read every
failure.
"""

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ClientGone
from serving.problems import problem_of, response_to

log = structlog.get_logger("serving.request")


class ProblemAnswers:
    """ASGI middleware that answers with a problem instead of raising."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except ClientGone:
            raise  # nobody is there to be answered
        except Exception as error:
            problem = problem_of(error)
            if problem.code == "internal_error":
                log.exception("failed", request_id=scope["state"]["request_id"])
            if has_begun:  # too late for an answer; the server closes the connection
                raise
            scope["state"]["notes"].update(code=problem.code, detail=problem.detail)
            response = response_to(problem, scope["path"], scope["state"]["request_id"])
            await response(scope, receive, send)
