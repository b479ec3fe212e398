"""Tables and figures of the paper as data: the runs that each one needs, and the printed numbers.

Each of them crosses its rows (methods with their options) with settings (tasks with theirs),
learning rates and seeds. To add a method to a table, add one line to its `rows`. Runs are named by
their options, so tables and figures share them: Table 1 evaluates runs of Figure 2.

Source: Kanuparthi, Arpit et al., *h-detach*, ICLR 2019. Numbers and numbering are as printed; those
of other methods in Table 2 are from their own papers. Its figures publish no numbers: `claim` holds
the statements of text and captions, in other words. The appendix's Figures 6 to 8 show more seeds
of Figure 3, of permuted MNIST and of Figure 4; use --seeds for those.

The exhibits named `..._small` are the same at a size that two cores finish; sizes, rates and
numbers of epochs are ours. Of language modelling the paper says in a sentence that it saw no
benefit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captioner.errors import OptionError
from captioner.options import flag

TRANSFER_DELAYS = (200, 400, 500, 1000, 2000, 5000)
SMALL_TRANSFER_DELAYS = (120, 240, 300, 600, 1200)
RATES = (1e-3, 5e-4, 1e-4)  # the learning rates that the paper names for pixel MNIST
OptionValues = tuple[tuple[str, Any], ...]  # names as in `config.json`, and their values


@dataclass(frozen=True)
class Setting:
    title: str
    script: str  # in training/, without .py
    options: OptionValues
    epochs: int  # of the paper, or where it has none ours
    short: str  # for the name of a run's folder
    is_papers: bool = True
    score: str = "accuracy"  # or perplexity, of which less is better


COPYING_100 = Setting("copying, T = 100", "copying", (("delay", 100),), 600, "copying100")
COPYING_300 = Setting("copying, T = 300", "copying", (("delay", 300),), 600, "copying300")
COPYING_SMALL = Setting(
    "copying, T = 30, 5 digits, 64 units",
    "copying",
    (("delay", 30), ("symbols", 5), ("hidden_size", 64)),
    12,
    "copying30",
    is_papers=False,
)
COPYING_60 = Setting(
    "copying, T = 60, 5 digits",
    "copying",
    (("delay", 60), ("symbols", 5)),
    30,
    "copying60",
    is_papers=False,
)
PIXELS = Setting("pixel MNIST", "sequential_mnist", (), 200, "mnist")
PERMUTED = Setting("permuted MNIST", "sequential_mnist", (("permute", True),), 200, "pmnist")
PIXELS_14 = Setting(
    "pixel MNIST, 14 x 14", "sequential_mnist", (("side", 14),), 10, "mnist14", is_papers=False
)
PERMUTED_14 = Setting(
    "permuted MNIST, 14 x 14",
    "sequential_mnist",
    (("side", 14), ("permute", True)),
    10,
    "pmnist14",
    is_papers=False,
)
TEXT = Setting(
    "language modelling",
    "word_language_model",
    (),
    10,
    "text",
    is_papers=False,
    score="perplexity",
)


@dataclass(frozen=True)
class Row:
    """A method as a table names it."""

    label: str
    model: str
    options: OptionValues = ()
    paper: tuple[float | None, ...] = ()  # its number in each column of the table
    only: Setting | None = None  # the setting it is run on, where not on all


def _lstm(
    label: str, paper: tuple[float | None, ...] = (), only: Setting | None = None, **options: Any
) -> Row:
    return Row(label, "lstm", tuple(options.items()), paper, only)


@dataclass(frozen=True)
class Reproduction:
    title: str
    claim: str
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    rates: tuple[float, ...] = (1e-3,)
    delays: tuple[int, ...] = ()  # evaluate each run at these as well
    is_table: bool = False  # of one number a run; else curves


_COPYING_ROWS = (
    _lstm("vanilla LSTM", p=0.0),
    _lstm("h-detach 0.25", p=0.25),
    _lstm("h-detach 0.5", p=0.5),
)
_PIXEL_ROWS = (_lstm("vanilla LSTM", p=0.0), _lstm("h-detach 0.25", p=0.25))
_UNCLIPPED_ROWS = (
    _lstm("vanilla LSTM, not clipped", p=0.0, clip=0.0),
    _lstm("h-detach 0.25, not clipped", p=0.25, clip=0.0),
)
_TABLE_2_ROWS = (
    _lstm("vanilla LSTM", (98.5, 91.1), p=0.0),
    _lstm("h-detach 0.25", (98.5, 92.3), p=0.25),
    Row("IRNN", "irnn", paper=(97.0, 82.0)),
    Row("uRNN", "urnn", paper=(95.1, 91.4)),
    Row("zoneout", "zoneout", paper=(None, 93.1)),
    Row("zoneout, h-detach 0.25", "zoneout", (("p", 0.25),)),
    Row("IndRNN", "indrnn", paper=(99.0, 96.0)),
    Row("SAB", "sab", paper=(None, 94.2)),
)

REPRODUCTIONS = {
    "figure2": Reproduction(
        title="Figure 2: copying, validation accuracy while training",
        claim="At T = 100 all reach about 100 %, the vanilla LSTM later. At T = 300 it gets to "
        "some 82 % at best, while p = 0.25 and 0.5 reach 100 % and depend less on the seed.",
        settings=(COPYING_100, COPYING_300),
        rows=_COPYING_ROWS,
    ),
    "table1": Reproduction(
        title="Table 1: transfer copying, trained at T = 100",
        claim="What is trained with h-detach generalises better to longer delays.",
        settings=(COPYING_100,),
        rows=(
            _lstm("vanilla LSTM", (64.85, 48.17, 43.03, 28.82, 19.48, 14.58), p=0.0),
            _lstm("h-detach 0.25", (90.72, 77.76, 74.68, 63.19, 51.83, 42.35), p=0.25),
            _lstm("h-detach 0.5", (74.79, 54.91, 52.43, 43.54, 34.34, 24.55), p=0.5),
        ),
        delays=TRANSFER_DELAYS,
        is_table=True,
    ),
    "figure3": Reproduction(
        title="Figure 3: pixel MNIST, validation accuracy while training",
        claim="h-detach converges faster, and is less disturbed by the learning rate.",
        settings=(PIXELS,),
        rows=_PIXEL_ROWS,
        rates=RATES,
    ),
    "table2": Reproduction(
        title="Table 2: pixel MNIST and permuted pixel MNIST, test accuracy",
        claim="h-detach equals the vanilla LSTM on MNIST and is better on permuted MNIST.",
        settings=(PIXELS, PERMUTED),
        rows=_TABLE_2_ROWS,
        rates=RATES,
        is_table=True,
    ),
    "figure4": Reproduction(
        title="Figure 4: pixel MNIST without gradient clipping",
        claim="Without clipping the vanilla LSTM becomes unstable, h-detach stays stable.",
        settings=(PIXELS,),
        rows=_UNCLIPPED_ROWS,
        rates=(5e-4, 1e-4),
    ),
    "figure5": Reproduction(
        title="Figure 5: c-detach, the gradient of the cell state cut instead",
        claim="Worse than the vanilla LSTM on both tasks; on pixel MNIST no seed above 60 % (the "
        "reproduction of Didolkar 2018 got up to 89.65 %). Detach probabilities are 0.5 for "
        "copying and 0.25 for pixel MNIST.",
        settings=(COPYING_100, PIXELS),
        rows=(
            _lstm("vanilla LSTM", p=0.0),
            _lstm("c-detach 0.5", only=COPYING_100, cell_p=0.5),
            _lstm("c-detach 0.25", only=PIXELS, cell_p=0.25),
        ),
    ),
    "figure2_small": Reproduction(
        title="Figure 2 in small: copying at T = 60, validation accuracy while training",
        claim="At T = 100 h-detach converges sooner, and c-detach much later (its Figure 5); at "
        "T = 300 the vanilla LSTM gets to some 82 % at best. (T = 60 and 5 digits are ours.)",
        settings=(COPYING_60,),
        rows=(*_COPYING_ROWS, _lstm("c-detach 0.5", cell_p=0.5)),
    ),
    "table1_small": Reproduction(
        title="Table 1 in small: transfer copying, trained at T = 60",
        claim="What is trained with h-detach generalises better to longer delays. (Trained at "
        "T = 100 there; T = 60 and 5 digits are ours.)",
        settings=(COPYING_60,),
        rows=(*_COPYING_ROWS, _lstm("c-detach 0.5", cell_p=0.5)),
        delays=SMALL_TRANSFER_DELAYS,
        is_table=True,
    ),
    "figure3_small": Reproduction(
        title="Figure 3 in small: pixel MNIST of 14 x 14, validation accuracy while training",
        claim="h-detach converges faster, and is less disturbed by the learning rate. (28 x 28 "
        "pixels there.)",
        settings=(PIXELS_14,),
        rows=_PIXEL_ROWS,
        rates=RATES,
    ),
    "table2_small": Reproduction(
        title="Table 2 in small: pixel and permuted MNIST of 14 x 14, test accuracy",
        claim="h-detach equals the vanilla LSTM on MNIST and is better on permuted MNIST. (The "
        "column of the paper is for 28 x 28 pixels and 200 epochs.)",
        settings=(PIXELS_14, PERMUTED_14),
        rows=_TABLE_2_ROWS,
        is_table=True,
    ),
    "figure4_small": Reproduction(
        title="Figure 4 in small: pixel MNIST of 14 x 14 without gradient clipping",
        claim="Without clipping the vanilla LSTM becomes unstable, h-detach stays stable. (28 x 28 "
        "pixels there.)",
        settings=(PIXELS_14,),
        rows=_UNCLIPPED_ROWS,
        rates=(5e-4, 1e-4),
    ),
    "figure5_small": Reproduction(
        title="Figure 5 in small: c-detach on pixel MNIST of 14 x 14",
        claim="Worse than the vanilla LSTM: on pixel MNIST no seed above 60 %. (28 x 28 pixels "
        "there; for copying see Figure 2 in small.)",
        settings=(PIXELS_14,),
        rows=(_lstm("vanilla LSTM", p=0.0), _lstm("c-detach 0.25", cell_p=0.25)),
    ),
    "language": Reproduction(
        title="Language modelling, where the paper saw no benefit",
        claim="Language modelling does not benefit from h-detach. (A sentence of its discussion; "
        "which text and which size, it does not say.)",
        settings=(TEXT,),
        rows=_PIXEL_ROWS,
        rates=(2e-3,),
        is_table=True,
    ),
    "ablations": Reproduction(
        title="Ablations on a small copying task",
        claim="c-detach is worse than the vanilla LSTM. (The size is ours, for half an hour on two "
        "cores; of the end without detaching only the authors' code tells.)",
        settings=(COPYING_SMALL,),
        rows=(
            _lstm("vanilla LSTM", p=0.0),
            _lstm("h-detach 0.25", p=0.25),
            _lstm("h-detach 0.25, the last 8 epochs plain", p=0.25, anneal_epochs=8),
            _lstm("c-detach 0.5", cell_p=0.5),
        ),
        rates=(3e-3,),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training: a row on a setting, with a learning rate and a seed."""

    setting: Setting
    row: Row
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder: task, method, its options, learning rate and seed."""
        options = "".join(
            f"-{key.replace('_', '-')}{value:g}"
            for key, value in sorted(self.row.options)
            if (key, value) != ("p", 0.0)
        )
        return f"{self.setting.short}-{self.row.model}{options}-lr{self.lr:g}-seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The options of its command line that say what is trained."""
        arguments = ["--model", self.row.model]
        for key, value in (*self.row.options, *self.setting.options):
            arguments += [flag(key)] if value is True else [flag(key), str(value)]
        return [*arguments, "--lr", str(self.lr), "--seed", str(self.seed)]


def restricted(reproduction: Reproduction, only: Sequence[str]) -> Reproduction:
    """Return a reproduction of the settings with these short names alone; of all without a name.

    Raises:
        OptionError: it has no setting of a name.
    """
    if not only:
        return reproduction
    known = {setting.short: setting for setting in reproduction.settings}
    for name in only:
        if name not in known:
            raise OptionError(f"--only is {name!r}; it can be {' or '.join(known)}")
    if reproduction.is_table and not reproduction.delays and len(only) < len(known):
        numbers = [list(known).index(name) for name in known if name in only]
        rows = tuple(
            replace(row, paper=tuple(row.paper[number] for number in numbers) if row.paper else ())
            for row in reproduction.rows
        )
        reproduction = replace(reproduction, rows=rows)
    settings = tuple(setting for name, setting in known.items() if name in only)
    return replace(reproduction, settings=settings)


def runs_of(reproduction: Reproduction, seeds: int, rates: Sequence[float] = ()) -> Iterator[Run]:
    """Yield the runs of a reproduction: all seeds of the first rate, then of the next.

    `rates` take the place of the reproduction's own.

    Raises:
        OptionError: a rate is not above 0.
    """
    for rate in rates:
        if not 0 < rate < 1:
            raise OptionError(f"--lr is {rate:g}; it must be above 0 and below 1")
    for lr in rates or reproduction.rates:
        for seed in range(seeds):
            for setting in reproduction.settings:
                for row in reproduction.rows:
                    if row.only in (None, setting):
                        yield Run(setting, row, lr, seed)
