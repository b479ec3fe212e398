"""Entry of `python -m serving`: settings, an address to listen on, and one process or several.

Bad settings and a bad checkpoint end it before anything listens or answers: a line for each on
standard error, exit status 2.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from captioner import __version__
from captioner.errors import CaptionerError
from captioner.extras import require
from captioner.flags import OneLineParser, add_flags
from serving.settings import PREFIX, Settings, unknown_variables
from serving.startup import (
    BAD_INPUT,
    check_checkpoint,
    handle_signals_before_serving,
    listen,
)

EPILOG = f"""\
Every option is also a variable: --max-batch is {PREFIX}MAX_BATCH. Of both, the option counts.
SIGHUP loads the checkpoint anew; SIGTERM finishes what was accepted, then ends.
"""


def main(argv: Sequence[str] | None = None, program: str = "python -m serving") -> int:
    """Serve, and return the exit status."""
    try:
        arguments = vars(build_parser(program).parse_args(argv))
        is_check = arguments.pop("check")
        require("serving", program, "fastapi", "uvicorn")
        settings = Settings.from_environment(os.environ, **arguments)
        check_checkpoint(settings)
        for name in unknown_variables(os.environ):
            print(f"warning: {name} is no setting of the service; see --help", file=sys.stderr)
        if settings.checkpoint is None:
            print(
                "serving the model that comes with captioner; --checkpoint names another",
                file=sys.stderr,
            )
        if is_check:
            print(_loaded(settings))
            return 0
        listener = listen(settings.host, settings.port)
    except CaptionerError as error:
        for problem in getattr(error, "problems", None) or [error]:
            print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    # Read when torch is first loaded, which happens after this.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads_per_worker))
    if settings.workers > 1:
        from serving.supervisor import Supervisor

        return Supervisor(settings, listener).run()
    handle_signals_before_serving()
    from serving.server import serve

    return serve(settings, listener)


def build_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser with a flag for each setting; values stay text until all are checked."""
    parser = OneLineParser(
        prog=program,
        description="Serve captions for photographs over HTTP.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    parser.add_argument(
        "--check", action="store_true", help="check the settings, load the model, and end"
    )
    add_flags(parser, Settings, as_text=True)
    return parser


def _loaded(settings: Settings) -> str:
    """Return what would be served, tried out as at a start; raise `CaptionerError` for the rest."""
    from serving.model import load_model

    model = load_model(
        settings.checkpoint_folder(),
        settings.device,
        settings.engine,
        settings.threads_per_worker,
    )
    return f"{model.folder}: {model.name}, {model.hash}, run by {model.engine['engine']}"


if __name__ == "__main__":
    sys.exit(main())
