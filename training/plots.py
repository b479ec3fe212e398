"""The curves of a run, drawn from its log."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from captioner.files import write_atomically


def draw_curves(
    lines: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    scores: Sequence[str],
    loss_label: str,
    score_label: str,
) -> None:
    """Draw the loss and the validation's `scores` over the epochs, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    training = [line for line in lines if line["kind"] == "train"]
    loss_axes.plot([line["epoch"] for line in training], [line["loss"] for line in training])
    loss_axes.set(xlabel="epoch", ylabel=loss_label, title="Loss")
    validations = [line for line in lines if line["kind"] == "validation"]
    epochs = [line["epoch"] for line in validations]
    for name in scores:
        score_axes.plot(epochs, [line[name] for line in validations], marker="o", label=name)
    score_axes.set(xlabel="epoch", ylabel=score_label, title="Validation")
    score_axes.legend()
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(out, picture.getvalue())
