"""`python -m captioner.native.build`: compile the kernels ahead of their first use.

Use it for places without a compiler: an image, a cluster, a wheel. Every instruction set of this
machine's family is compiled, because the processor there may be another. The kernels of training
are compiled on first use where this was not done; those of decoding are used only where it was.
"""

import os
import sys
from pathlib import Path

from captioner.errors import CaptionerError
from captioner.flags import OneLineParser
from captioner.native import compilation


def build_parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m captioner.native.build", description="Compile the kernels ahead."
    )
    names = [one.name for one in compilation.LSTM.instruction_sets]
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help="where the libraries go; default: into the installed package, "
        "or where that is read-only into the cache of this user",
    )
    names_of_libraries = [library.name for library in compilation.LIBRARIES]
    parser.add_argument(
        "--libraries",
        choices=names_of_libraries,
        nargs="+",
        default=names_of_libraries,
        help="hdetach trains, decoding captions; default: all",
    )
    parser.add_argument(
        "--only", choices=names, nargs="+", default=names, help="instruction sets; default: all"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    try:
        options = build_parser().parse_args(arguments)
        is_writable = os.access(compilation.BUILT_AHEAD.parent, os.W_OK)
        default = None if is_writable else compilation.user_cache()
        folder = options.into or default or compilation.BUILT_AHEAD
        wanted = [
            (library, one)
            for library in compilation.LIBRARIES
            for one in library.instruction_sets
            if library.name in options.libraries and one.name in options.only
        ]
        for library, one in wanted:
            print(compilation.build(library, one, folder))
        if not wanted:
            print("there is no such kernel for this kind of processor", file=sys.stderr)
    except CaptionerError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
