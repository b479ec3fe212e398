"""`captioner export`: a checkpoint as a folder that runs without PyTorch, or as a static page."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioner.export.config import ExportOptions

DESCRIPTION = """\
Write a deployable folder: the encoder and the decoder as graphs of ONNX, the vocabulary and how
photographs are prepared. It is captioned with, served and described like a checkpoint, without
PyTorch. The graphs are compared with the checkpoint before anything is written.

With --web, write a page of static files that captions photographs in the browser. CHECKPOINT may
then be a folder that was exported before, and without one it is the model of this package.
"""
EXAMPLES = """\
examples:
  captioner export runs/flickr8k/best --out flickr8k
  captioner export runs/flickr8k/best --out flickr8k --precision auto --data data/flickr8k
  captioner caption dog.jpg --checkpoint flickr8k
  captioner export --web site && python -m http.server -d site
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from captioner.export.config import ExportOptions
    from captioner.flags import add_flags

    parser = commands.add_parser(
        "export",
        help="make a checkpoint deployable without PyTorch",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="folder of a checkpoint or of a run",
    )
    add_flags(parser, ExportOptions)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from captioner.export.config import ExportOptions

    given = {item.name: getattr(arguments, item.name) for item in fields(ExportOptions)}
    given = {name: one for name, one in given.items() if one is not None}
    options = ExportOptions(**given)
    if options.web is None:
        _export(_named(arguments.checkpoint), options)
        return 0
    with _exported(arguments.checkpoint, options, set(given)) as folder:
        # By name: the library knows nothing of the service, whose page this is.
        page = import_module("serving.static_page")
        page.export_static_page(folder, options.web, announce=print)
    return 0


def _named(checkpoint: Path | None) -> Path:
    from captioner.errors import OptionError

    if checkpoint is None:
        raise OptionError("there is no CHECKPOINT to export; name the folder of one, or give --web")
    return checkpoint


def _export(checkpoint: Path, options: "ExportOptions") -> Path:
    from captioner.extras import needing

    with needing("training", "an export"):
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from captioner.export.exporter import export_captioner
    return export_captioner(
        checkpoint,
        options,
        announce=print,
        warn=partial(print, file=sys.stderr),
        show_progress=sys.stderr.isatty(),
    )


@contextmanager
def _exported(checkpoint: Path | None, options: "ExportOptions", given: set[str]) -> Iterator[Path]:
    """Yield a deployable folder: the one that is named, the package's, or one made of a checkpoint.

    Raises:
        OptionError: what was exported already is to be exported in another way.
    """
    from captioner.checkpoint_folders import DEPLOYABLE, find_checkpoint, shipped_model
    from captioner.errors import OptionError

    folder = shipped_model() if checkpoint is None else find_checkpoint(checkpoint)
    if (folder / DEPLOYABLE).is_file():
        if others := sorted(given - {"web"}):
            flag = "--" + others[0].replace("_", "-")
            raise OptionError(f"{flag}: {folder} is exported already; leave the option out")
        yield folder
    elif options.out is not None:
        yield _export(folder, options)
    else:
        with TemporaryDirectory(prefix="captioner-web-") as work:
            name = folder.parent.name if folder.name in ("best", "last") else folder.name
            yield _export(folder, replace(options, out=Path(work) / name))
