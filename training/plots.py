"""Pictures of runs and studies: one look, small files, and the curves of a run from its log."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from captioner.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 120

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


class Curves(NamedTuple):
    """What the picture of a run's curves shows."""

    scores: Sequence[str]
    loss_label: str
    score_label: str


def draw_curves(lines: Sequence[Mapping[str, Any]], out: Path, curves: Curves) -> None:
    """Draw the loss and the scores of the validations over the epochs, as a PNG."""
    figure = new_figure(11, 4)
    loss_axes, score_axes = figure.subplots(1, 2)
    training = [line for line in lines if line["kind"] == "train"]
    loss_axes.plot([line["epoch"] for line in training], [line["loss"] for line in training])
    loss_axes.set(xlabel="epoch", ylabel=curves.loss_label, title="Loss")
    validations = [line for line in lines if line["kind"] == "validation"]
    epochs = [line["epoch"] for line in validations]
    for name in curves.scores:
        score_axes.plot(epochs, [line[name] for line in validations], marker="o", label=name)
    score_axes.set(xlabel="epoch", ylabel=curves.score_label, title="Validation")
    score_axes.legend()
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
    write_picture(out, figure)
