"""Serving process: uvicorn with this project's connections, signals and shutdown.

On SIGTERM the process stops being ready at once, refuses new requests, finishes the accepted ones,
and exits with status 0. SIGHUP reloads the checkpoint.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn
from fastapi import FastAPI

from captioner.errors import CaptionerError
from serving.app import create_app
from serving.connection.header_gate import HeaderGate
from serving.connection.protocol import ConnectionLimits, LimitedProtocol
from serving.service import Service
from serving.settings import Settings
from serving.startup import BACKLOG, BAD_INPUT
from serving.telemetry.logs import configure_logs

NOTICE_SECONDS = 0.5  # time in which a balancer can see that the service is not ready any more
CANCEL_SECONDS = 2.0  # for what has not finished when the time to drain is over
# After which Python's lock goes from the model's thread to the event loop, and back, if the other
# wants it. With Python's own 5 ms, each of the many short waits of either takes as long.
SWITCH_SECONDS = 0.0001

log = structlog.get_logger("serving.server")


class DrainingServer(uvicorn.Server):
    """uvicorn's server with an end in two steps: refuse what is new, then stop.

    `on_ready` is called once, when the service would accept a request.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self.service = service
        self._on_ready = on_ready
        self._draining_since: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._draining_since is not None and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True  # Ctrl-C a second time
        self.start_draining()

    def start_draining(self) -> None:
        """Refuse what is new from now on, and stop when the rest is done."""
        if self._draining_since is None:
            self._draining_since = time.monotonic()
            self.service.begin_draining()

    async def on_tick(self, counter: int) -> bool:
        if self._on_ready is not None and self.service.why_not_ready() is None:
            self._on_ready()
            self._on_ready = None
        if self.service.failure is not None:
            return True
        if self._draining_since is not None:
            seconds = time.monotonic() - self._draining_since
            is_done = seconds >= NOTICE_SECONDS and not self.server_state.tasks
            longest = self.service.settings.drain_seconds - CANCEL_SECONDS
            self.should_exit |= is_done or seconds >= longest
        self.service.refusals.tick()
        return await super().on_tick(counter)


def serve(
    settings: Settings,
    listener: socket.socket,
    *,
    supervisor: Connection | None = None,
    loads_first: bool = False,
) -> int:
    """Serve until a signal ends it, and return the exit status.

    With a `supervisor`, a byte tells it that this worker is ready, another that all workers shall
    reload, and its end is the worker's end. With `loads_first` it listens when it is ready.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    writer = configure_logs(settings.log_level)
    _allow_many_files()
    on_ready = reload_others = None
    if supervisor is not None:
        on_ready = partial(supervisor.send_bytes, b"ready")
        reload_others = partial(supervisor.send_bytes, b"reload")
    service = Service(settings, loads_first=loads_first, reload_others=reload_others)
    server = make_server(settings, service, create_app(settings, service), on_ready)
    # What modules and routes hold stays to the end. A full collection would walk all of it every
    # few seconds of load, and for 45 ms nobody would be answered.
    gc.collect()
    gc.freeze()
    if supervisor is not None:
        threading.Thread(
            target=_drain_without_supervisor, args=(supervisor, server), daemon=True
        ).start()
    try:
        # asyncio's own loop, whatever extra has installed another: connections and decoding
        # processes reach into its transports, and are tested on it.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(_run(server, listener))
    finally:
        writer.close()
    if service.failure is not None:
        print(f"error: {service.failure}", file=sys.stderr)
        return BAD_INPUT
    return 0


def make_server(
    settings: Settings,
    service: Service,
    app: FastAPI,
    on_ready: Callable[[], None] | None = None,
) -> DrainingServer:
    """Return the server of one process, which calls `on_ready` when it would accept a request."""
    limits = ConnectionLimits(
        connections=settings.connection_limit,
        header_bytes=settings.header_limit_bytes,
        body_bytes=settings.body_limit_bytes,
        receive_timeout_seconds=settings.receive_timeout_seconds,
        origins=settings.origins,
        why_refused=HeaderGate(service, app.router.routes).why_refused,
        refusals=service.refusals,
    )
    config = uvicorn.Config(
        cast(Any, app),
        http=cast(Any, partial(LimitedProtocol, limits=limits)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=cast(int, settings.keep_alive_seconds),  # uvicorn takes a float too
        timeout_graceful_shutdown=round(CANCEL_SECONDS),
        backlog=BACKLOG,
        workers=1,
    )
    return DrainingServer(config, service, on_ready)


async def _run(server: DrainingServer, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = loop.create_task(_reload(server.service))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("listening", url=f"http://{shown}:{port}", pid=os.getpid())
    await server.serve(sockets=[listener])
    server.service.refusals.sum_up()
    log.info("stopped", pid=os.getpid())


async def _reload(service: Service) -> None:
    try:
        await service.reload()
    except CaptionerError as problem:
        log.error("not reloaded", reason=str(problem))
    except Exception:
        log.exception("not reloaded")


def _drain_without_supervisor(supervisor: Connection, server: DrainingServer) -> None:
    """Wait until the supervisor is gone, whatever ended it, and then end the server."""
    with suppress(EOFError, OSError):
        supervisor.recv_bytes()
    server.start_draining()


def _allow_many_files() -> None:
    """Raise the limit of open files as far as this process may: each connection needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
