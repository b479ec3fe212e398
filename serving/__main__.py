"""`python -m serving`: read the settings, listen, and serve in one process or in several.

Bad settings and a bad checkpoint end it before anything listens or answers: a line for each on
standard error, exit status 2.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

from captioner import __version__
from captioner.checkpoint_folders import newest_checkpoint
from captioner.errors import CaptionerError, OptionError
from serving.settings import (
    PREFIX,
    Settings,
    SettingsError,
    default_text,
    unknown_variables,
)
from serving.signals import take_early_signals

BAD_INPUT = 2
BACKLOG = 512  # connections that the kernel keeps until they are accepted
METAVARS = {str: "TEXT", int: "N", float: "X", Path: "DIR"}
EPILOG = f"""\
Every option is also a variable: --max-batch is {PREFIX}MAX_BATCH. Of both, the option counts.
SIGHUP loads the checkpoint anew; SIGTERM finishes what was accepted, then ends.
"""


def main(words: Sequence[str] | None = None, program: str = "python -m serving") -> int:
    """Serve, and return the exit status."""
    arguments = vars(build_parser(program).parse_args(words))
    is_check = arguments.pop("check")
    try:
        settings = Settings.from_environment(os.environ, **arguments)
        _check_checkpoint(settings)
        for name in unknown_variables(os.environ):
            print(f"warning: {name} is no setting of the service; see --help", file=sys.stderr)
        if is_check:
            print(_loaded(settings))
            return 0
        listener = listen(settings.host, settings.port)
    except SettingsError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    except CaptionerError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    # Read when torch is first loaded, which happens after this.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads_per_worker))
    if settings.workers > 1:
        from serving.supervisor import Supervisor

        return Supervisor(settings, listener).run()
    take_early_signals()
    from serving.server import serve

    return serve(settings, listener)


def build_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser with a flag for each setting; values stay text until all are checked."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve captions for photographs over HTTP.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    parser.add_argument(
        "--check", action="store_true", help="check the settings, load the model, and end"
    )
    for one in fields(Settings):
        flag = "--" + one.name.replace("_", "-")
        default = default_text(one.name)
        text = one.metadata["help"] + (f" ({default})" if default else "")
        text = text.replace("%", "%%")
        if one.type is bool:
            parser.add_argument(flag, action="store_const", const="true", help=text)
        else:
            kinds = [kind for kind in get_args(one.type) if kind is not type(None)] or [one.type]
            parser.add_argument(flag, metavar=METAVARS.get(kinds[0], "LIST"), help=text)
    return parser


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; connections queue from now on.

    Raises:
        OptionError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        raise OptionError(
            f"cannot listen on {host} port {port}: {problem.strerror}; choose another --host or "
            "--port"
        ) from problem
    return listener


def _loaded(settings: Settings) -> str:
    """Return what would be served, tried out as at a start; raise `CaptionerError` for the rest."""
    from serving.model import load_model

    model = load_model(settings.checkpoint or newest_checkpoint(Path("runs")), settings.device)
    return f"{model.folder}: {model.name}, {model.hash}"


def _check_checkpoint(settings: Settings) -> None:
    """Raise for what can be seen without loading anything."""
    folder = settings.checkpoint or newest_checkpoint(Path("runs"))
    inside = (folder, folder / "best")
    if not any((place / "model.json").is_file() for place in inside):
        raise OptionError(
            f"checkpoint is {str(folder)!r}, which holds no model.json; give the folder of a "
            "checkpoint such as runs/NAME/best"
        )


if __name__ == "__main__":
    sys.exit(main())
