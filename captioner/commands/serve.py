"""`captioner serve`: the caption service, where it is installed.

The library knows nothing of the service. The command looks for it by name when it is called, and
hands it all the words that follow.
"""

import argparse
from importlib import import_module
from importlib.util import find_spec

from captioner.errors import OptionError

SERVICE = "serving"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        help="answer requests for captions over HTTP",
        add_help=False,  # the service has its own
        prefix_chars="\0",  # and its own flags: whatever follows is for it
    )
    parser.add_argument("words", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the service and return its exit status.

    Raises:
        OptionError: the service is not installed.
    """
    try:
        found = find_spec(SERVICE)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise OptionError("the service is not installed here; install captioner[serving]")
    try:
        program = import_module(f"{SERVICE}.__main__")
    except ModuleNotFoundError as problem:
        raise OptionError(
            f"the service needs {problem.name}, which is not installed; install captioner[serving]"
        ) from problem
    status: int = program.main(arguments.words, program="captioner serve")
    return status
