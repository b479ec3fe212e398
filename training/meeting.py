"""The meeting of processes that torchrun starts: where they find each other, and how they part.

torchrun's own store outlives the processes, with all that those of an earlier start wrote into it;
Gloo would look there for processes that are gone (pytorch/pytorch issue 135712). So the first
process opens a store for each start, and says in torchrun's where it is.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch.distributed as dist

from captioner.errors import CaptionerError, TrainingError
from captioner.files import write_atomically
from captioner.text import in_one_line

_PATIENCE = timedelta(minutes=10)
_HERE = "captioner/here/"  # keys in a meeting's store: which processes have come
# Keys in torchrun's store: where the meeting is, and, with its name, how the first process ended
# that failed.
_PLACE, _FIRST_END = "captioner/meeting", "captioner/first_end/"


class ProcessLostError(TrainingError):
    """Another process has ended in the middle of the work."""


class End(NamedTuple):
    """How a process failed."""

    rank: int
    status: int  # of its exit
    message: str


class Meeting:
    """The meeting of one start of the processes."""

    def __init__(self, outer: Any, store: Any, name: str) -> None:
        self.store = store
        self._outer = outer  # torchrun's
        self._name = name

    @classmethod
    def found(cls) -> tuple[int, Self]:
        """Return the number of this process and the meeting, by the variables of torchrun.

        Raises:
            ProcessLostError: the first process does not open it.
        """
        outer, rank, _ = next(dist.rendezvous("env://", timeout=_PATIENCE))
        return rank, cls._opened(outer) if rank == 0 else cls._joined(outer)

    @classmethod
    def _opened(cls, outer: Any) -> Self:
        host, name = os.environ["MASTER_ADDR"], secrets.token_hex(8)
        store = dist.TCPStore(host, 0, is_master=True, timeout=_PATIENCE)
        store.set(_PLACE, name)
        outer.set(_PLACE, json.dumps([host, store.port, name]))
        return cls(outer, store, name)

    @classmethod
    def _joined(cls, outer: Any) -> Self:
        end = time.monotonic() + _PATIENCE.total_seconds()
        while time.monotonic() < end:
            host, port, name = json.loads(outer.get(_PLACE))
            # That of an earlier start is closed: nobody answers there, or somebody else.
            with suppress(OSError, RuntimeError):
                socket.create_connection((host, port), 5).close()
                store = dist.TCPStore(host, port, timeout=_PATIENCE)
                if store.get(_PLACE).decode() == name:
                    return cls(outer, store, name)
            time.sleep(0.1)
        raise ProcessLostError(
            f"the first process of this training was not found on {os.environ['MASTER_ADDR']} "
            f"within {_PATIENCE}; look at its output"
        )

    def wait_for_all(self, rank: int, size: int) -> None:
        """Wait until all processes have come, lest the one that did not be waited for all day.

        Raises:
            ProcessLostError: some have not, within the patience of a meeting.
        """
        keys = [f"{_HERE}{one}" for one in range(size)]
        self.store.set(keys[rank], "")
        try:
            self.store.wait(keys, _PATIENCE)
        except dist.DistStoreError as problem:  # the time is over
            absent = [str(one) for one, key in enumerate(keys) if not self.store.check([key])]
            raise ProcessLostError(
                f"of {size} processes, number {', '.join(absent)} did not come within "
                f"{_PATIENCE}; look at their output, and start all of them again"
            ) from problem

    def first_end(self, own: End) -> End:
        """Return how the first process failed, which may be this one.

        torchrun finds it in the error file that it asks for, and shows it in its report.
        """
        first = own
        with suppress(RuntimeError):  # the store is gone: nobody else can be asked
            found = self._outer.compare_set(_FIRST_END + self._name, "", json.dumps(own))
            first = End(*json.loads(found))
        if first.status:
            _write_error_file(first)
        return first


def _write_error_file(end: End) -> None:
    """Tell torchrun why this process ends, in the form of `torch.distributed.elastic`."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    text = f"process {end.rank}: {end.message}"
    extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
    content = json.dumps({"message": {"message": text, "extraInfo": extra}})
    with suppress(OSError, CaptionerError):
        write_atomically(Path(path), content.encode())


@contextmanager
def in_touch() -> Iterator[None]:
    """Say in one line that a process is gone, where the others can no longer be reached."""
    try:
        yield
    except RuntimeError as problem:
        reason = in_one_line(problem)
        cause = "killed, perhaps for want of memory"
        if "by peer" not in reason:  # which says that the connection was closed, and no more
            cause += f", or cut off: {reason[:200]}"
        raise ProcessLostError(
            f"another process of this training is gone without a word ({cause}); what was saved "
            "before is whole: go on with --resume RUN"
        ) from problem
