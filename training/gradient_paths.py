"""Figure of the two gradient paths of an LSTM: along the cell state, and through h.

Kanuparthi, Arpit et al. (ICLR 2019) argue that large recurrent weights drown the part of the
gradient that travels along the cell state and reaches far back. This script measures it in an
untrained LSTM whose recurrent weights are scaled up, and in one that learns to copy.

    python training/gradient_paths.py --out runs/gradient_paths
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captioner.errors import TrainingError
from captioner.flags import OneLineParser, options_parser
from captioner.lstm.path_gradients import gradient_paths
from captioner.options import AT_LEAST_ONE, option
from captioner.progress import Progress
from training.figure_tools import NOT_HUGE, StudyOptions, initialise, run_study, train
from training.plots import BLUE, GREEN, ORANGE, PURPLE, STYLE, new_figure
from training.randomness import derived_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "gradient_paths"
DETACH = (0.0, 0.25, 0.5)  # probabilities to detach; 0 is a plain LSTM
SCALES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # of the recurrent weights
SCALES_DRAWN = (1.0, 8.0)
SYMBOLS = 8  # that are copied; beside them a blank and the signal to recall
MEASURED_BATCH = 8
HELD_OUT_BATCH = 32  # of the copying task
WARM_UP_STEPS = 15  # before the longest lag, so that the hidden state is no longer near its zero
CLIP_NORM = 1.0
_LEAST_PERCENT = 0.003  # at the foot of the drawn shares
_LEAST_NORM = 1e-9  # and of the norms
_COLOURS = {0.0: ORANGE, 0.25: PURPLE, 0.5: GREEN}
_DASHES = {0.0: "-", 0.25: (0, (5, 1.5)), 0.5: (0, (2, 1.2))}


@dataclass(frozen=True, kw_only=True)
class PathsOptions(StudyOptions):
    out: Path = option(Path("runs", NAME), f"where {NAME}.png and {NAME}.json go", metavar="FOLDER")
    hidden_size: int = option(64, "hidden units of the LSTM", within=AT_LEAST_ONE)
    lags: int = option(50, "longest lag drawn for the untrained LSTM", within=AT_LEAST_ONE)
    draws: int = option(15, "untrained LSTMs to take the median of", within=AT_LEAST_ONE)
    digits: int = option(3, "symbols to copy", within=AT_LEAST_ONE)
    delay: int = option(
        17,
        "steps between the last symbol and the first to be recalled",
        within=AT_LEAST_ONE,
    )
    updates: int = option(2400, "of the training", within=AT_LEAST_ONE)
    measurements: int = option(
        24, "over the training, beside the one before it", within=AT_LEAST_ONE
    )
    batch_size: int = option(64, "sequences per update", within=AT_LEAST_ONE)
    learning_rate: float = option(3e-3, "of Adam", within=NOT_HUGE)

    def contradictions(self) -> Iterable[str]:
        if self.lags < self.lag:
            yield (
                f"--lags is {self.lags}; it must be at least {self.lag}, the time between a symbol "
                "and its recall (--digits + --delay), where the two parts are compared"
            )

    @property
    def lag(self) -> int:
        """Return how many steps lie between a symbol and its recall."""
        return self.digits + self.delay


class Copier(nn.Module):
    """An LSTM that reads symbols and says, some time later, which they were."""

    def __init__(self, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SYMBOLS + 2, hidden_size)
        self.head = nn.Linear(hidden_size, SYMBOLS + 1)
        initialise(self, hidden_size, generator)

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy: outputs [T, B, H], targets [T, B] -> a scalar."""
        return nn.functional.cross_entropy(self.head(outputs).flatten(0, 1), targets.flatten())


def copying_batch(
    options: PathsOptions, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return sequences of the copying task: symbols, blanks with a signal at the end, recall.

    Shapes:
        -> one-hot inputs [T, B, symbols + 2], targets [T, B], T = 2 * digits + delay.
    """
    digits = torch.randint(1, SYMBOLS + 1, (options.digits, batch_size), generator=generator)
    steps = 2 * options.digits + options.delay
    inputs, targets = (torch.zeros(steps, batch_size, dtype=torch.long) for _ in range(2))
    inputs[: options.digits] = targets[-options.digits :] = digits
    inputs[-options.digits - 1] = SYMBOLS + 1
    return nn.functional.one_hot(inputs, SYMBOLS + 2).float(), targets


def measure(x: Tensor, weights: Sequence[Tensor], grad_outputs: Tensor) -> dict[str, Any]:
    """Return norms by lag of the cell part, and of the rest for each probability to detach.

    The rest under h-detach is its mean over all masks (Corollary 1): each step's way through h
    is damped by 1 - p.

    Raises:
        TrainingError: a gradient has exploded so far that it is no number.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    rest = {}
    for p in DETACH:
        keep = torch.full((len(x),), 1 - p)
        paths = gradient_paths(x, None, None, w_ih, w_hh, b_ih, b_hh, grad_outputs, keep=keep)
        along_cell, others = paths.norms()
        if not (along_cell.isfinite().all() and others.isfinite().all()):
            raise TrainingError(
                "a gradient has grown beyond the largest float32; "
                "give fewer --lags, or a smaller --learning-rate"
            )
        rest[f"{p:g}"] = others.tolist()
    return {"cell": along_cell.tolist(), "rest": rest}


def share(measured: dict[str, Any], p: float, lag: int) -> float:
    """Return which share of the norms at this lag is the cell part's: 1 is all of it."""
    cell, rest = measured["cell"][lag], measured["rest"][f"{p:g}"][lag]
    return cell / (cell + rest) if cell + rest > 0 else 0.0


def untrained(options: PathsOptions, progress: Progress) -> list[dict[str, Any]]:
    """Measure LSTMs that differ in the scale of their recurrent weights only.

    The loss is a random direction of the last hidden state, so lag k is the k-th step before the
    last. Norms and shares are medians over several draws; the range of shares is their quartiles.
    """
    generator = derived_generator(options.seed, "untrained")
    size, steps = options.hidden_size, options.lags + 1 + WARM_UP_STEPS
    shapes = ((4 * size, 1), (4 * size, size), (4 * size,), (4 * size,))
    bound = size**-0.5  # PyTorch's default
    drawn: dict[float, list[dict[str, Any]]] = {scale: [] for scale in SCALES}
    for _ in range(options.draws):
        x = torch.rand(steps, MEASURED_BATCH, 1, generator=generator)
        w_ih, w_hh, *biases = (
            torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in shapes
        )
        grads = torch.zeros(steps, MEASURED_BATCH, size)
        direction = torch.randn(MEASURED_BATCH, size, generator=generator)
        grads[-1] = nn.functional.normalize(direction, dim=1)
        for scale, items in drawn.items():
            items.append(measure(x, [w_ih, scale * w_hh, *biases], grads))
        progress.advance()
    return [{"scale": scale, **_median(items, options.lag)} for scale, items in drawn.items()]


def _median(items: Sequence[dict[str, Any]], lag: int) -> dict[str, Any]:
    def middle(rows: list[list[float]]) -> list[float]:
        return torch.tensor(rows).median(dim=0).values.tolist()

    def quartiles(values: list[float]) -> list[float]:
        return torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()

    return {
        "cell": middle([item["cell"] for item in items]),
        "rest": {name: middle([item["rest"][name] for item in items]) for name in items[0]["rest"]},
        "shares": {f"{p:g}": quartiles([share(item, p, lag) for item in items]) for p in DETACH},
    }


def in_training(options: PathsOptions, progress: Progress) -> Iterator[dict[str, Any]]:
    """Train a plain LSTM to copy; yield what is measured before, during and after.

    The loss measured is the task's own, which every step has a share in.
    """
    model = Copier(options.hidden_size, derived_generator(options.seed, "weights"))
    batches = derived_generator(options.seed, "batches")
    held_out = derived_generator(options.seed, "held out")
    inputs, targets = copying_batch(options, HELD_OUT_BATCH, held_out)

    def next_loss() -> Tensor:
        learnt, wanted = copying_batch(options, options.batch_size, batches)
        return model.loss_of(model.lstm(learnt)[0], wanted)

    pauses = min(options.measurements, options.updates)
    rate = options.learning_rate
    for update in train(model, next_loss, progress, options.updates, pauses, rate, CLIP_NORM):
        outputs, _ = model.lstm(inputs)
        loss = model.loss_of(outputs, targets)
        (grads,) = torch.autograd.grad(loss, outputs)
        measured = measure(inputs, list(model.lstm.parameters()), grads)
        right = model.head(outputs[-options.digits :]).argmax(dim=-1) == targets[-options.digits :]
        recurrent = model.lstm.get_parameter("weight_hh_l0").detach()
        yield {
            "update": update,
            "loss": loss.item(),
            "accuracy": float(right.float().mean()),
            "recurrent_norm": float(torch.linalg.matrix_norm(recurrent, 2)),
            "shares": {f"{p:g}": [share(measured, p, options.lag)] for p in DETACH},
            **measured,
        }


def draw(options: PathsOptions, figures: dict[str, Any]) -> "Figure":
    """Draw both experiments, one in each row: two sets of norms by lag, and the shares."""
    import matplotlib
    from matplotlib.ticker import NullLocator

    with matplotlib.rc_context(STYLE):
        figure = new_figure(11.5, 7.2)
        axes = figure.subplots(2, 3)
        scales = {item["scale"]: item for item in figures["untrained"]}
        runs = figures["training"]
        titles = [f"Untrained, recurrent weights × {scale:g}" for scale in SCALES_DRAWN]
        _draw_row(axes[0], [scales[scale] for scale in SCALES_DRAWN], titles, options.lags)
        titles = [f"Copying, update {n['update']:,}: {n['accuracy']:.0%} recalled" for n in runs]
        # At the longest lag of the sequence the weights met the zero state: no gradient.
        _draw_row(axes[1], [runs[0], runs[-1]], [titles[0], titles[-1]], len(runs[0]["cell"]) - 2)
        axes[0, 0].legend(loc="upper right")
        _draw_shares(axes[0, 2], options, list(scales), list(scales.values()))
        axes[0, 2].set(xscale="log", xlabel="scale of the recurrent weights")
        axes[0, 2].set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
        axes[0, 2].xaxis.set_minor_locator(NullLocator())
        _draw_shares(axes[1, 2], options, [item["update"] for item in runs], runs)
        axes[1, 2].set_xlabel("updates of the training")
        axes[1, 2].legend(loc="lower left")
        return figure


def _draw_row(
    row: Sequence["Axes"], items: Sequence[dict[str, Any]], titles: Sequence[str], lags: int
) -> None:
    for axes, measured, title in zip(row, items, titles, strict=False):
        axes.semilogy(
            measured["cell"][: lags + 1], color=BLUE, linewidth=2.8, label="along the cell state"
        )
        for p in DETACH:
            label = "rest, plain LSTM" if p == 0 else f"rest, h-detach p = {p:g}"
            rest = measured["rest"][f"{p:g}"][1 : lags + 1]
            axes.semilogy(
                range(1, lags + 1), rest, color=_COLOURS[p], linestyle=_DASHES[p], label=label
            )
        axes.set(xlabel="time lag / steps", ylabel="norm of the gradient", title=title)
    low = max(_LEAST_NORM, min(axes.get_ylim()[0] for axes in row[: len(items)]))
    high = max(axes.get_ylim()[1] for axes in row[: len(items)])
    for axes in row[: len(items)]:
        axes.set_ylim(low, high)


def _draw_shares(
    axes: "Axes", options: PathsOptions, places: Sequence[float], items: Sequence[dict[str, Any]]
) -> None:
    from matplotlib.ticker import FuncFormatter

    for p in DETACH:
        percent = [
            [max(100 * value, _LEAST_PERCENT) for value in item["shares"][f"{p:g}"]]
            for item in items
        ]
        axes.plot(
            places,
            [values[len(values) // 2] for values in percent],
            color=_COLOURS[p],
            linestyle=_DASHES[p],
            marker="o",
            markersize=3,
            label="plain LSTM" if p == 0 else f"h-detach p = {p:g}",
        )
        low, high = [values[0] for values in percent], [values[-1] for values in percent]
        axes.fill_between(places, low, high, color=_COLOURS[p], alpha=0.13, linewidth=0)
    axes.set(
        yscale="log",
        ylim=(_LEAST_PERCENT, 100),
        ylabel="share of the cell part / %",
        title=f"Share of the cell part, lag {options.lag}",
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Compute, write and draw what the command line asks for; return the exit status."""
    return run_study(NAME, build_parser(), PathsOptions, compute, draw, argv)


def compute(options: PathsOptions) -> dict[str, Any]:
    """Return the figures of both experiments, with their progress on standard error."""
    with Progress(options.draws, "untrained LSTMs", unit="draws") as progress:
        before = untrained(options, progress)
    with Progress(options.updates, "an LSTM in training", unit="updates") as progress:
        return {"untrained": before, "training": list(in_training(options, progress))}


def build_parser() -> OneLineParser:
    """Return the parser of this script's command line."""
    return options_parser(
        PathsOptions, prog=f"{NAME}.py", description="Draw the two ways of an LSTM's gradient."
    )


if __name__ == "__main__":
    sys.exit(main())
