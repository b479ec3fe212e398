"""Exit statuses of this project's programs, and one line for what their users can put right."""

import sys
from collections.abc import Callable

from captioner.errors import CaptionerError
from captioner.text import accept_any_text

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


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
    except KeyboardInterrupt:
        print(f"{name}: {when_interrupted}", file=sys.stderr)
        return INTERRUPTED
