"""Options, training and output that the studies of gradients share.

A study computes figures in a minute or two, writes them as `NAME.json` and draws them as
`NAME.png` into one folder. Bad input leaves no file behind.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.files import write_json
from captioner.flags import OneLineParser
from captioner.options import AT_LEAST_ONE, Options, Range, option
from captioner.program import run_program
from captioner.progress import Progress
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


def check_folder(out: Path) -> None:
    """Raise `OptionError` if files cannot be written into this folder, which need not exist."""
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise OptionError(f"--out {out}: {nearest} is not a folder; give another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OptionError(f"--out {out}: {nearest} cannot be written to; give another place")


def run_study(
    name: str,
    parser: OneLineParser,
    kind: type[StudyOptions],
    compute: Callable[[Any], dict[str, Any]],
    draw: Callable[[Any, dict[str, Any]], "Figure"],
    argv: Sequence[str] | None,
) -> int:
    """Compute, write and draw what the command line asks for; return the exit status."""

    def work() -> None:
        options = kind.from_json(vars(parser.parse_args(argv)))
        check_folder(options.out)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        figures = compute(options)
        picture = draw(options, figures)
        config = options.to_json()
        del config["out"]
        write_json(options.out / f"{name}.json", {"config": config, **figures})
        write_picture(options.out / f"{name}.png", picture)
        print(f"written: {options.out / name}.png and .json")

    return run_program(f"{name}.py", work, when_interrupted="interrupted; nothing was written")


def initialise(module: nn.Module, hidden_size: int, generator: torch.Generator) -> None:
    """Draw all parameters as PyTorch does for recurrent layers of this size."""
    bound = hidden_size**-0.5
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


def train(
    module: nn.Module,
    next_loss: Callable[[], Tensor],
    progress: Progress,
    updates: int,
    pauses: int,
    learning_rate: float,
    clip_norm: float,
) -> Iterator[int]:
    """Train by Adam with clipped gradients; pause before, after, and evenly in between.

    Yields the number of updates done: at the start, then at each of so many `pauses`.
    """
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate)
    when = {round(number * updates / pauses) for number in range(pauses + 1)}
    yield 0
    for update in range(1, updates + 1):
        loss = next_loss()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimiser.step()
        progress.advance(loss=loss.item())
        if update in when:
            yield update
