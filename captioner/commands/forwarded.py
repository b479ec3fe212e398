"""`captioner train` and `captioner serve`: programs of other packages, where those are installed.

The library knows nothing of training and the service. A command looks for its package by name
when it is called, and forwards all arguments that follow.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from captioner.errors import OptionError


@dataclass(frozen=True)
class Program:
    """A module with a function `main(argv, program)` that returns an exit status."""

    module: str
    extra: str  # of the package captioner, which brings what the module needs
    help: str


PROGRAMS = {
    "train": Program("training.train_coco", "training", "train a captioner"),
    "serve": Program("serving.__main__", "serving", "answer requests for captions over HTTP"),
}


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, program in PROGRAMS.items():
        parser = commands.add_parser(
            name,
            help=program.help,
            add_help=False,  # the program has its own
            prefix_chars="\0",  # and its own flags: whatever follows is for it
        )
        parser.add_argument("forwarded", nargs=argparse.REMAINDER)
        parser.set_defaults(run=partial(run, name))


def run(name: str, arguments: argparse.Namespace) -> int:
    """Run the program and return its exit status.

    Raises:
        OptionError: it is not installed, or something that it needs.
    """
    program = PROGRAMS[name]
    remedy = f"install captioner[{program.extra}]"
    if find_spec(program.module.partition(".")[0]) is None:
        raise OptionError(f"captioner {name} is not installed here; {remedy}")
    try:
        module = import_module(program.module)
    except ModuleNotFoundError as problem:
        raise OptionError(
            f"captioner {name} needs {problem.name}, which is not installed; {remedy}"
        ) from problem
    status: int = module.main(arguments.forwarded, program=f"captioner {name}")
    return status
