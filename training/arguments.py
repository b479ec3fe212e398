"""The command line of `train_coco.py`, made from the fields of the configuration."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.errors import OptionError
from captioner.options import add_flags, check_changes
from training.config import TrainingConfig
from training.recipes import check_with_any_recipe

_DESCRIPTION = (
    "Train a captioner. What is not given comes from the recipe of the data set "
    "(training/recipes.py); the effective values are printed and stored in the run's folder."
)
_EXAMPLES = """examples:
  python training/train_coco.py --p 0.4                        COCO in data/coco, else the sample
  python training/train_coco.py --p 0.4 --data my_photos/      a folder with a dataset*.json
  python training/train_coco.py --resume runs/NAME             go on after a stop
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    given: dict[str, Any]  # options of the configuration that stood on the command line
    out: Path | None
    resume: Path | None


def parse_arguments(words: Sequence[str] | None = None) -> Arguments:
    """Return what stood on the command line; `words` are those after the program's name.

    Raises:
        OptionError: a value is out of range, or the options contradict each other.
    """
    values = vars(build_parser().parse_args(words))
    out, resume = values.pop("out"), values.pop("resume")
    if resume is None:
        # What is wrong whatever the data is said before any is read.
        check_with_any_recipe(values, TrainingConfig.from_json)
    else:
        if out is not None:
            raise OptionError(
                "--out and --resume exclude each other; a resumed run keeps its folder"
            )
        check_changes(values, TrainingConfig)
    return Arguments(given=values, out=out, resume=resume)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options that were not given are absent from its result."""
    parser = argparse.ArgumentParser(
        prog="train_coco.py",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_flags(parser, TrainingConfig)
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder of the run; default: runs/DATA-DECODER-pP-TIME",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with the run in this folder, exactly where its last/ stands",
    )
    return parser
