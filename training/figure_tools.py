"""What the studies of gradients have in common: their command line, their folder, their look.

A study computes figures in a minute or two, writes them as `NAME.json` and draws them as
`NAME.png` into one folder. Bad input is one line and exit status 2, and leaves no file behind.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from captioner.errors import CaptionerError, OptionError
from captioner.files import write_atomically, write_json
from captioner.options import OneLineParser, flag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAD_INPUT, _INTERRUPTED = 2, 130  # exit statuses
_DOTS_PER_INCH = 120
_LARGEST = 1e6  # rate or norm; far beyond what learns, and far from what overflows

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, FAINT = "#222222", "#777777"
STYLE: dict[Any, Any] = {  # of matplotlib
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The options of a study. Whole numbers must be at least 1, the seed at least 0."""

    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 0 if item.name == "seed" else 1
            if isinstance(value, int) and value < least:
                raise OptionError(f"{flag(item.name)} is {value}; it must be at least {least}")
            if isinstance(value, float) and not 0 < value <= _LARGEST:
                raise OptionError(
                    f"{flag(item.name)} is {value:g}; it must be above 0 and at most {_LARGEST:g}"
                )
        if self.seed >= 2**63:
            raise OptionError(f"--seed is {self.seed}; it must be below 2**63")


def study_parser(
    name: str, description: str, defaults: StudyConfig, helps: Mapping[str, str]
) -> OneLineParser:
    """Return a parser with a flag for each number of the configuration, and --out."""
    parser = OneLineParser(
        prog=f"{name}.py",
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs", name),
        metavar="FOLDER",
        help=f"where {name}.png and {name}.json go (default: runs/{name})",
    )
    known = {
        "seed": "of weights, data and masks",
        "threads": "of the CPU; default: PyTorch's",
        **helps,
    }
    for field_name, text in known.items():
        default = getattr(defaults, field_name)
        parser.add_argument(
            flag(field_name),
            type=type(default) if default is not None else int,
            metavar="X" if isinstance(default, float) else "N",
            help=text if default is None else f"{text} (default: {default:g})",
        )
    return parser


def run_study(name: str, study: Callable[[], None]) -> int:
    """Run a study and return the exit status; what a user can put right is said in one line."""
    try:
        study()
    except CaptionerError as problem:
        print(f"{name}.py: {problem}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(f"{name}.py: interrupted; nothing was written", file=sys.stderr)
        return _INTERRUPTED
    return 0


def check_folder(out: Path) -> None:
    """Raise `OptionError` if files cannot be written into this folder, which need not exist."""
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise OptionError(f"--out {out}: {nearest} is not a folder; give another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OptionError(f"--out {out}: {nearest} cannot be written to; give another place")


def use_threads(config: StudyConfig) -> None:
    """Let PyTorch use the threads that the configuration asks for."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def write_study(
    out: Path, name: str, config: StudyConfig, figures: Mapping[str, Any], picture: "Figure"
) -> None:
    """Write the figures, with the options they were computed with, and the picture."""
    write_json(out / f"{name}.json", {"config": asdict(config), **figures})
    write_picture(out / f"{name}.png", picture)
    print(f"written: {out / name}.png and .json")


def write_picture(path: Path, figure: "Figure") -> None:
    """Write a figure as PNG, whole or not at all; 256 colours are enough for lines."""
    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=_DOTS_PER_INCH)
    with Image.open(drawn) as picture:
        few_colours = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few_colours.save(small, format="png", optimize=True)
    write_atomically(path, small.getvalue())


def new_figure(width_inches: float, height_inches: float) -> "Figure":
    """Return an empty figure; draw on it within `matplotlib.rc_context(STYLE)`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def parse_study(
    parser: argparse.ArgumentParser, words: Sequence[str] | None
) -> tuple[Path, dict[str, Any]]:
    """Return the folder, which can be written to, and the other options that were given."""
    values = vars(parser.parse_args(words))
    out = values.pop("out")
    check_folder(out)
    return out, values
