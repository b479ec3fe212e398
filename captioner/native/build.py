"""`python -m captioner.native.build`: compile the LSTM kernels ahead of their first use.

Use it for places without a compiler: an image, a cluster, a wheel. Every instruction set of this
machine's family is compiled, because the processor there may be another.
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import argparse
import os
import sys
from pathlib import Path

from captioner.errors import CaptionerError
from captioner.native import library


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m captioner.native.build", description="Compile the LSTM kernels ahead."
    )
    names = [one.name for one in library.instruction_sets()]
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help="where the libraries go; default: into the installed package, "
        "or where that is read-only into the cache of this user",
    )
    parser.add_argument(
        "--only", choices=names, nargs="+", default=names, help="instruction sets; default: all"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    is_writable = os.access(library.BUILT_AHEAD.parent, os.W_OK)
    default = None if is_writable else library.user_cache()
    folder = options.into or default or library.BUILT_AHEAD
    try:
        for wanted in library.instruction_sets():
            if wanted.name in options.only:
                print(library.build(wanted, folder))
    except CaptionerError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
