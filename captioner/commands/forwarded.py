"""`captioner train` and `captioner serve`: programs of other packages.

The library knows nothing of training and the service. A command imports its package by name when
it is called, and forwards all arguments that follow.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from captioner.extras import needing


@dataclass(frozen=True)
class Program:
    """A module with a function `main(argv, program)` that returns an exit status."""

    module: str
    extra: str  # brings what the module needs
    help: str


PROGRAMS = {
    "train": Program("training.train_coco", "training", "train a captioner"),
    "calibrate": Program(
        "training.calibrate", "training", "fit how confident a model may be in its captions"
    ),
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
        ToolError: something that it needs is not installed.
    """
    program = PROGRAMS[name]
    with needing(program.extra, f"captioner {name}"):
        module = import_module(program.module)
    status: int = module.main(arguments.forwarded, program=f"captioner {name}")
    return status
