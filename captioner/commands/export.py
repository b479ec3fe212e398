"""`captioner export`: a checkpoint as a folder that runs without PyTorch."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

DESCRIPTION = """\
Write a deployable folder: the encoder and the decoder as graphs of ONNX, the vocabulary and how
photographs are prepared. It is captioned with, served and described like a checkpoint, without
PyTorch. The graphs are compared with the checkpoint before anything is written.
"""
EXAMPLES = """\
examples:
  captioner export runs/flickr8k/best --out flickr8k
  captioner export runs/flickr8k/best --out flickr8k --precision auto --data data/flickr8k
  captioner caption dog.jpg --checkpoint flickr8k
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from captioner.export.config import ExportOptions
    from captioner.options import add_flags

    parser = commands.add_parser(
        "export",
        help="make a checkpoint deployable without PyTorch",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a checkpoint or of a run"
    )
    add_flags(parser, ExportOptions)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from captioner.export.config import ExportOptions
    from captioner.extras import needing

    values = {item.name: getattr(arguments, item.name) for item in fields(ExportOptions)}
    options = ExportOptions(**{name: one for name, one in values.items() if one is not None})
    with needing("training", "an export"):
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from captioner.export.exporter import export_captioner
    export_captioner(
        arguments.checkpoint, options, announce=print, show_progress=sys.stderr.isatty()
    )
    return 0
