"""HTTP/1.1 connection with deadlines for its header, its body, its idling and its answer.

uvicorn has a deadline only for idling (Kludex/uvicorn #157) and no limit on the size of a header,
and it continues to read a body after the answer. This subclass of its protocol closes connections
that are too slow or too large and answers malformed requests in the service's own form. When there
are too many connections, it drops the one that has waited longest without a request. What it is
told to refuse (`header_gate.py`) never reaches the application. It overrides private parts of
uvicorn, so `pyproject.toml` limits uvicorn's version.
"""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.addresses import plain_address
from serving.connection.early_answers import RawHeaders, early_answer
from serving.connection.header_rules import what_is_wrong
from serving.connection.refusals import Refusals
from serving.connection.request_parser import RequestParser
from serving.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.config import Config
    from uvicorn.server import ServerState

LINGER_SECONDS = 2.0  # an answer is lost if its connection closes on bytes that were not read
BODY_SLACK_SECONDS = 2.0  # the application answers a slow body with 408 first
NEWCOMER_SECONDS = 1.0  # at the end of the service, for a request that may be under way
MOST_PIPELINED = 16  # requests that a client may send ahead
MOST_HEADERS = 100
# A body up to this size is read and thrown away, which costs less than another connection.
SMALL_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What one worker grants its connections."""

    connections: int = 1000
    header_bytes: int = 16_384
    body_bytes: int = 10 * 1024 * 1024
    receive_timeout_seconds: float = 10.0  # of the header, and again of the body
    origins: tuple[str, ...] = ()  # whose pages may read answers
    # Says from method, target and header why a request is refused now, and its path.
    why_refused: Callable[[bytes, bytes, RawHeaders], tuple[Problem, str] | None]
    refusals: Refusals


class Receiving(Enum):
    """Which part of a request a connection waits for."""

    NOTHING = "nothing"
    HEADER = "header"
    BODY = "body"


class _LingeringTransport:
    """A transport whose `close` lets the last answer arrive, and does not wait for ever."""

    def __init__(self, protocol: "LimitedProtocol", transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        loop = self._protocol.loop
        if self._protocol.receiving is not Receiving.NOTHING and self._transport.can_write_eof():
            self.is_lingering = True
            self._transport.write_eof()
            self._protocol.flow.resume_reading()
            loop.call_later(LINGER_SECONDS, self._transport.abort)
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():
            loop.call_later(self._protocol.limits.receive_timeout_seconds, self._transport.abort)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the deadlines and limits it lacks."""

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser = RequestParser(self.parser, self)  # type: ignore[assignment]
        self.app = self._announcing_the_end(self.app)
        self.limits = limits
        self.receiving = Receiving.HEADER
        self.waiting_since = self.loop.time()
        self._received_bytes = 0  # of the request that is being received
        self._header_bytes = 0
        self._is_refused = False  # the connection ends
        self._is_body_unwanted = False  # this request is answered, and the connection stays
        self._last_problem: Problem | None = None  # the answer after those to earlier requests
        self._deadline: TimerHandle | None = None
        self._write_deadline: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        has_room = self._make_room()
        super().connection_made(_LingeringTransport(self, transport))  # type: ignore[arg-type]
        if self.client is not None:
            self.client = plain_address(self.client[0]), self.client[1]
        self._expect(Receiving.HEADER)
        if not has_room:
            detail = f"all {self.limits.connections} connections of this worker are in use"
            self._refuse(Problem("too_many_connections", detail, retry_after_seconds=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.receiving is Receiving.NOTHING:
            self._expect(Receiving.HEADER)
        self._received_bytes += len(data)
        if self._last_problem is None:
            super().data_received(data)
        elif self._received_bytes > self.limits.body_bytes:  # else it is read and forgotten
            self.transport.abort()
        if self._is_refused or self.transport.is_closing():
            return
        if self.receiving is Receiving.HEADER and self._received_bytes > self.limits.header_bytes:
            self._refuse_header()
        elif self._received_bytes > 2 * self.limits.body_bytes + self.limits.header_bytes:
            self.transport.abort()  # extensions of chunks or trailers without end

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        if self.receiving is not Receiving.HEADER:
            self._expect(Receiving.HEADER)

    def on_url(self, url: bytes) -> None:
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.receiving is Receiving.BODY:  # a trailer; it must not become a header
            return
        self._header_bytes += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_refused:
            return
        if self._header_bytes > self.limits.header_bytes or len(self.headers) > MOST_HEADERS:
            self._refuse_header()
            return
        wrong = what_is_wrong(self.headers, self.parser.get_http_version())
        if wrong is not None:
            self._refuse(Problem("bad_request", wrong))
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            self._is_refused = True
            self.transport.abort()
            return
        if self.parser.get_http_version() != "1.1":
            self.expect_100_continue = False  # HTTP/1.0 has no such answer
        self.receiving = Receiving.BODY
        if self._is_refused_from_header():
            return
        self._expect(Receiving.BODY)
        if self.url == b"*":  # OPTIONS * asks about the server as a whole
            self.url = b"/"
        super().on_headers_complete()
        if self.parser.should_upgrade():  # to nothing that is spoken here
            self.cycle.keep_alive = False  # what comes behind the body is not read

    def on_body(self, body: bytes) -> None:
        if not (self._is_refused or self._is_body_unwanted):
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # the body is still to come
            return
        self.receiving = Receiving.NOTHING
        self.waiting_since = self.loop.time()
        self._received_bytes = 0
        self._cancel_deadline()
        if self._is_body_unwanted:
            self._is_body_unwanted = False
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif not self._is_refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.receiving is Receiving.BODY and not self.pipeline:
            self.transport.close()
        super().on_response_complete()
        if self._last_problem is not None and not (
            self.is_answering or self.transport.is_closing()
        ):
            self._refuse(self._last_problem)

    def shutdown(self) -> None:
        """End the connection: after its answer, or at once where it idles.

        Who connected just before the end may still send a request, and is told that it is over.
        """
        if self.cycle is None and self.receiving is Receiving.HEADER:
            self.loop.call_later(NEWCOMER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(
            self.limits.receive_timeout_seconds, self.transport.abort
        )

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says no more
        if self._is_refused:  # it had its answer when its header was there
            return
        self._refuse(Problem("bad_request", "the request is not well-formed HTTP/1.1"))

    @property
    def is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _announcing_the_end(self, app: "ASGIApp") -> "ASGIApp":
        """Return `app` with `Connection: close` in answers to bodies that are not wholly there."""

        async def announcing(scope: "Scope", receive: "Receive", send: "Send") -> None:
            async def send_knowingly(message: "Message") -> None:
                is_begun = message["type"] == "http.response.start"
                if is_begun and self.receiving is Receiving.BODY and not self.pipeline:
                    self.cycle.keep_alive = False
                await send(message)

            await app(scope, receive, send_knowingly)

        return announcing

    def _expect(self, part: Receiving) -> None:
        self.receiving = part
        self._cancel_deadline()
        seconds = self.limits.receive_timeout_seconds
        if part is Receiving.BODY:
            seconds += BODY_SLACK_SECONDS
        self._deadline = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self.receiving is Receiving.HEADER and self.is_answering:
            self._expect(Receiving.HEADER)  # a request ahead of its time; the first one is served
        elif self.receiving is Receiving.HEADER and self._received_bytes:
            seconds = self.limits.receive_timeout_seconds
            detail = f"the header did not arrive within {seconds:g} seconds"
            self._refuse(Problem("receive_timeout", detail, members={"limit": seconds}))
        else:
            self.transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> bool:
        """Return whether there is room for one more connection, if need be by dropping another."""
        if len(self.connections) < self.limits.connections:
            return True
        waiting = [
            one
            for one in self.connections
            if isinstance(one, LimitedProtocol)
            and one.receiving is not Receiving.BODY
            and not one.is_answering
        ]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.waiting_since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def _is_refused_from_header(self) -> bool:
        """Refuse the request whose header is complete, if it is to be, and say whether it was."""
        if self.is_answering:  # its answer would come before that of an earlier one
            return False
        found = self.limits.why_refused(self.parser.get_method(), self.url, self.headers)
        if found is None:
            return False
        problem, path = found
        is_kept = self._can_stay() and not problem.closes_connection
        self._answer_early(problem, path=path, closes=not is_kept)
        self.limits.refusals.add(problem.code, path)
        if is_kept:
            self._is_body_unwanted = True
        else:
            self._is_refused = True
            self._cancel_deadline()
            self.transport.close()
        return True

    def _can_stay(self) -> bool:
        """Return whether the connection may go on after a body that nobody wants."""
        if self.expect_100_continue:  # nobody knows whether the client will send it
            return False
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return False
        fields = dict(self.headers)
        length = fields.get(b"content-length", b"0")
        is_small = length.isdigit() and int(length) <= SMALL_BODY_BYTES
        return is_small and b"transfer-encoding" not in fields and b"upgrade" not in fields

    def _refuse_header(self) -> None:
        detail = (
            f"the header is larger than {self.limits.header_bytes:,} bytes or has more than "
            f"{MOST_HEADERS} fields"
        )
        self._refuse(Problem("header_too_large", detail))

    def _refuse(self, problem: Problem) -> None:
        """Answer with `problem` without asking the application, and close."""
        self._is_refused = True
        self._cancel_deadline()
        if self.is_answering:
            if self.receiving is Receiving.HEADER:
                self._last_problem = problem
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.abort()  # this would be taken for the answer to an earlier request
                return
            self.cycle.disconnected = True  # the application need not answer any more
            self.cycle.message_event.set()
        request_id = self._answer_early(problem, path="/", closes=True)
        self.receiving = Receiving.BODY  # whatever still comes is read and forgotten
        self.transport.close()
        if problem.code == "too_many_connections":
            self.limits.refusals.add(problem.code)
        else:
            client = self.client[0] if self.client else None
            self.limits.refusals.add_single(problem.code, client=client, request_id=request_id)

    def _answer_early(self, problem: Problem, *, path: str, closes: bool) -> str:
        """Send an answer without asking the application, and return the id in it."""
        answer, request_id = early_answer(
            problem,
            self.headers or [],
            self.limits.origins,
            self.server_state.default_headers,
            path=path,
            closes=closes,
        )
        self.transport.write(answer)
        return request_id
