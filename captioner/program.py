"""Exit statuses of this project's programs, and one line for what their users can put right."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from captioner.errors import CaptionerError
from captioner.text import accept_any_text

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
TERMINATED = 143  # 128 + SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the program ends as after Ctrl-C, and what was made so far is not lost."""


def status_of(interruption: KeyboardInterrupt) -> int:
    """Return the exit status of a program that was interrupted."""
    return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block.

    It does nothing in other threads than the main one, or where the signal is handled otherwise;
    and what handles it in the block, such as the service, may take it over.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) in (_terminate, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> NoReturn:
    # `timeout` sends it twice: to the program, and to its group.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def run_program(
    name: str, work: Callable[[], int | None], *, when_interrupted: str = "interrupted"
) -> int:
    """Do the work of the program `name` and return its exit status: the work's own, else 0.

    An error of this project, or Ctrl-C, ends it with one line on standard error. Text that the
    encoding of standard output cannot hold is printed escaped.
    """
    accept_any_text(sys.stdout)
    try:
        return work() or 0
    except CaptionerError as problem:
        print(f"{name}: {problem}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interruption:
        print(f"{name}: {when_interrupted}", file=sys.stderr)
        return status_of(interruption)
