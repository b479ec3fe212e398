"""Options and output that the studies of gradients share.

A study computes figures in a minute or two, writes them as `NAME.json` and draws them as
`NAME.png` into one folder. Bad input leaves no file behind.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from captioner.errors import OptionError
from captioner.files import write_json
from captioner.options import AT_LEAST_ONE, Options, Range, option
from training.plots import write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST = 1e6  # rate or norm; far beyond what learns, and far from what overflows
NOT_HUGE = Range(
    f"it must be above 0 and at most {_LARGEST:g}", lambda value: 0 < value <= _LARGEST
)
_SEED = Range("it must be at least 0 and below 2**63", lambda value: 0 <= value < 2**63)


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    out: Path = option(Path("runs"), "where the picture and its figures go", metavar="FOLDER")
    seed: int = option(0, "of weights, data and masks", within=_SEED)
    threads: int | None = option(None, "of the CPU; default: PyTorch's", within=AT_LEAST_ONE)

    def prepare(self) -> None:
        """Check that `out` can be written to, and let PyTorch use so many threads.

        Raises:
            OptionError: files cannot be written there.
        """
        check_folder(self.out)
        if self.threads is not None:
            torch.set_num_threads(self.threads)


def check_folder(out: Path) -> None:
    """Raise `OptionError` if files cannot be written into this folder, which need not exist."""
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise OptionError(f"--out {out}: {nearest} is not a folder; give another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OptionError(f"--out {out}: {nearest} cannot be written to; give another place")


def write_study(
    name: str, options: StudyOptions, figures: Mapping[str, Any], picture: "Figure"
) -> None:
    """Write the figures, with the options they were computed with, and the picture."""
    config = {key: value for key, value in options.to_json().items() if key != "out"}
    write_json(options.out / f"{name}.json", {"config": config, **figures})
    write_picture(options.out / f"{name}.png", picture)
    print(f"written: {options.out / name}.png and .json")
