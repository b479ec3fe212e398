"""Decode process, as its parent sees it: started, asked, killed.

The output of a process that has parsed hostile bytes is not trusted: lengths are limited before
anything is kept, the JSON may hold only expected members, and texts only printable ASCII. A process
that violates the protocol is killed.
"""

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

FRAME = struct.Struct(">II")  # as in decode_worker.py
MOST_JSON, MOST_BYTES = 4096, 64 << 20
ROOT = Path(__file__).resolve().parents[2]
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")
MOST_WAITS = 3
TICKS = os.sysconf("SC_CLK_TCK")
DYING_SECONDS, REAPING_SECONDS, LOOKING_SECONDS = 0.5, 5.0, 0.005


class ProcessLost(Exception):  # noqa: N818
    """The process died, or had to be killed, before it answered."""


class DecodeProcess(asyncio.Protocol):
    """A process that answers one message at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[dict[str, Any], bytearray]] | None = None
        self._received = bytearray()
        self._is_killed = False
        self.is_lost = False
        self.served = 0  # uploads
        self.on_lost: Callable[[DecodeProcess], None] = lambda _: None

    @classmethod
    async def start(cls, settings: dict[str, Any], timeout_seconds: float) -> "DecodeProcess":
        """Return a process that has loaded what it needs and has limited itself.

        Raises:
            ProcessLost: it did not get that far.
        """
        process = cls()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "captioner.sandbox.decode_worker"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    cwd="/",
                    start_new_session=True,  # a Ctrl-C for the service is not for its processes
                )
            except OSError:
                ours.close()
                raise ProcessLost from None
        ours.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: process, sock=ours)
            answer, _ = await process.ask(json_bytes(settings), b"", timeout_seconds)
            if answer != {"ready": True}:
                raise ProcessLost
        except BaseException:
            await process.end()
            raise
        return process

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    async def ask(
        self, head: bytes, body: bytes, timeout_seconds: float
    ) -> tuple[dict[str, Any], bytearray]:
        """Return the answer to a message; a process that takes longer is killed.

        `head` is of `json_bytes`. A process that only waits for a processor, since others are
        busy, gets up to three times as long.

        Raises:
            ProcessLost: there is none.
        """
        if self._transport is None or self.is_lost:
            raise ProcessLost
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"".join([FRAME.pack(len(head), len(body)), head, body]))
        limit = self._processor_seconds() + timeout_seconds
        try:
            for _ in range(MOST_WAITS):
                if (await asyncio.wait({answer}, timeout=timeout_seconds))[0]:
                    return answer.result()
                if not self._is_kept_waiting() or self._processor_seconds() >= limit:
                    break
            raise ProcessLost
        finally:
            self._answer = None
            if not answer.done():
                answer.cancel()
                self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.poll() is None:
            self._is_killed = True
            self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    async def end(self) -> bool:
        """End the process, wait until the system has forgotten it, and say whether it was killed
        by somebody else: then what it was at may be innocent.
        """
        # One that is dying of itself needs a moment for that. A thread or a signal handler that
        # waits for so short a time would cost more than looking.
        if not (self.is_lost and await self._has_ended(DYING_SECONDS)):
            self.kill()
            await self._has_ended(REAPING_SECONDS)
        assert self._process is not None
        return self._process.returncode == -signal.SIGKILL and not self._is_killed

    async def _has_ended(self, seconds: float) -> bool:
        assert self._process is not None
        for _ in range(round(seconds / LOOKING_SECONDS)):
            if self._process.poll() is not None:
                return True
            await asyncio.sleep(LOOKING_SECONDS)
        return False

    def _is_kept_waiting(self) -> bool:
        """Say whether the process would run if there were a processor for it, or a disk."""
        return self._status().partition(" ")[0] in ("R", "D")

    def _processor_seconds(self) -> float:
        """Return how long the process has computed."""
        fields = self._status().split()
        return sum(map(int, fields[11:13])) / TICKS if fields else 0.0

    def _status(self) -> str:
        """Return what follows the name in the kernel's line about the process (proc(5))."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb", buffering=0) as file:
                line = file.read()
        except OSError:  # it is gone, or this is no Linux
            return ""
        return line.decode("ascii", errors="replace").rpartition(") ")[2]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no such class

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.kill()
            return
        self._received += data
        if len(self._received) < FRAME.size:
            return
        head, body = FRAME.unpack_from(self._received)
        if head > MOST_JSON or body > MOST_BYTES:
            self.kill()
            return
        end = FRAME.size + head + body
        if len(self._received) < end:
            return
        received, self._received = self._received, bytearray()
        try:
            if len(received) > end:
                raise ValueError
            answer = json.loads(received[FRAME.size : FRAME.size + head])
            if not isinstance(answer, dict):
                raise ValueError
        except (ValueError, RecursionError):
            self.kill()
            return
        self._answer.set_result((answer, received[FRAME.size + head :]))

    def connection_lost(self, problem: Exception | None) -> None:  # noqa: ARG002
        self.is_lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ProcessLost())
        self.on_lost(self)


def json_bytes(values: dict[str, Any]) -> bytes:
    """Return values as the process reads them."""
    return json.dumps(values).encode("ascii")


def _environment() -> dict[str, str]:
    """Return what the process may know: no key, no setting of the service, one thread."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"}
