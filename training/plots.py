"""The curves of a run, drawn from its log."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from captioner.files import write_atomically

_SCORES = ("CIDEr", "METEOR", "Bleu_4")


def draw_curves(lines: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw loss and validation scores over the epochs, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    training = [line for line in lines if line["kind"] == "train"]
    loss_axes.plot([line["epoch"] for line in training], [line["loss"] for line in training])
    loss_axes.set(xlabel="epoch", ylabel="training loss per word", title="Loss")
    validations = [line for line in lines if line["kind"] == "validation"]
    epochs = [line["epoch"] for line in validations]
    for name in _SCORES:
        score_axes.plot(epochs, [line[name] for line in validations], marker="o", label=name)
    score_axes.set(xlabel="epoch", ylabel="score", title="Validation, generated captions")
    score_axes.legend()
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(out, picture.getvalue())
