"""The command `captioner`: captions for photographs, scores, data sets, training, the service.

Exit status 0 is success; 1 that photographs were skipped or a check has findings; 2 that nothing
could be done, with one line on standard error that says why; 130 that Ctrl-C ended it, 143 that
SIGTERM did.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from captioner import __version__
from captioner.commands import (
    caption,
    caption_dataset,
    compare,
    data,
    export,
    forwarded,
    info,
    score,
)
from captioner.errors import CaptionerError
from captioner.flags import OneLineParser
from captioner.program import BAD_INPUT, status_of, terminated_as_interrupted
from captioner.text import accept_any_text
from captioner.threads import wait_passively

PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status; `argv` lacks the program's name."""
    wait_passively()  # before torch is loaded
    _open_closed_streams()
    accept_any_text(sys.stdout)
    # Pillow's word about large pictures: the limit is the library's, which says so in a line.
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    with terminated_as_interrupted():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = build_parser().parse_args(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except CaptionerError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interruption:
        print("interrupted", file=sys.stderr)
        _forget_output()
        return status_of(interruption)
    except BrokenPipeError:  # the reader has gone, as `head` does
        _forget_output()
        return PIPE_CLOSED
    except OSError as problem:
        print(f"error: {problem}", file=sys.stderr)
        _forget_output()
        return BAD_INPUT
    return status


def _open_closed_streams() -> None:
    """Let what is printed go nowhere where the caller closed a stream, as `>&-` does."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _forget_output() -> None:
    """Keep Python from complaining at its end about output that has nowhere to go."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `run` of its result is the subcommand."""
    parser: argparse.ArgumentParser = OneLineParser(
        prog="captioner",
        description="Caption photographs, score captions, prepare data sets, train, export, serve.",
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (caption, caption_dataset, score, compare, data, export, info):
        command.add_parser(commands)
    forwarded.add_parsers(commands)
    return parser
