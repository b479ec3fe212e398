"""A child process that answers one line with one line, with a time-out for each answer.

Three threads serve the child: one writes, one reads the answers, one drains stderr. So neither side
blocks on a full pipe, and the last lines of a child that died are available. The child ends with
`close`, with the object, or, because its input ends, with this process. The usual wrappers lack
each of these (salaniz/pycocoevalcap #15).
"""

import os
import queue
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from captioner.errors import ToolError
from captioner.metrics.java import java_environment, last_words

_KEPT_STDERR_BYTES = 4096
_JOIN_SECONDS = 5.0


class ProcessEndedError(Exception):
    """The child ended before it gave the answer that was waited for."""


class LineProcess:
    """One running child; lines in, lines out, in order."""

    def __init__(self, command: Sequence[str], *, what: str, folder: Path) -> None:
        self.what = what
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=java_environment(Path(command[0])),
                start_new_session=True,  # Ctrl-C is for the parent, which ends its children itself
            )
        except OSError as problem:
            raise ToolError(f"{what} could not be started: {problem}") from problem
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stderr = bytearray()
        # The threads must not hold `self`, or the object could not be collected with its child.
        self._threads = [
            threading.Thread(target=_write, args=(self._child.stdin, self._outgoing), daemon=True),
            threading.Thread(target=_read, args=(self._child.stdout, self._answers), daemon=True),
            threading.Thread(target=_drain, args=(self._child.stderr, self._stderr), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(
            self, _end, self._child, self._outgoing, self._threads, os.getpid()
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        return self._finalizer.alive and self._child.poll() is None

    def send(self, lines: Iterable[str]) -> None:
        """Queue lines for the child and return at once; what Unicode cannot encode becomes "?"."""
        text = "".join(line + "\n" for line in lines)
        self._outgoing.put(text.encode("utf-8", "replace"))

    def receive(self, timeout_seconds: float) -> str:
        """Return the next line of the child's answer, without its line ending.

        Raises:
            ToolError: it did not come in time; the child is ended.
            ProcessEndedError: the child ended first.
        """
        try:
            answer = self._answers.get(timeout=timeout_seconds)
        except queue.Empty:
            self.close()
            raise ToolError(
                f"{self.what} gave no answer within {timeout_seconds:g} s and was ended; "
                f"is the machine overloaded? Try again, or allow it more time "
                f"(stderr: {last_words(bytes(self._stderr))})"
            ) from None
        if answer is None:
            self.close()
            raise ProcessEndedError(
                f"{self.what} ended with status {self._child.returncode}: "
                f"{last_words(bytes(self._stderr))}"
            )
        return answer.decode("utf-8", "replace").rstrip("\r\n")

    def close(self) -> None:
        """End the child now; closing twice does nothing."""
        self._finalizer()


def _write(pipe: BinaryIO, outgoing: "queue.SimpleQueue[bytes | None]") -> None:
    with suppress(OSError):  # the child is gone: the reader reports that
        while (data := outgoing.get()) is not None:
            pipe.write(data)
            pipe.flush()


def _read(pipe: BinaryIO, answers: "queue.SimpleQueue[bytes | None]") -> None:
    for line in pipe:
        answers.put(line)
    answers.put(None)


def _drain(pipe: BinaryIO, kept: bytearray) -> None:
    descriptor = pipe.fileno()
    while block := os.read(descriptor, 1 << 16):
        kept += block
        del kept[:-_KEPT_STDERR_BYTES]


def _end(
    child: "subprocess.Popen[bytes]",
    outgoing: "queue.SimpleQueue[bytes | None]",
    threads: Sequence[threading.Thread],
    owner: int,
) -> None:
    if os.getpid() != owner:  # a fork of the owner, such as a data loader's worker
        return
    if child.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    outgoing.put(None)
    for thread, pipe in zip(threads, (child.stdin, child.stdout, child.stderr), strict=True):
        assert pipe is not None
        thread.join(_JOIN_SECONDS)
        if not thread.is_alive():  # else a grandchild holds the pipe, and closing would wait
            with suppress(OSError):  # what was still to be written has no reader
                pipe.close()
