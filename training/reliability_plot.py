"""The picture of how reliable confidences are: what was said against what came of it."""

from pathlib import Path

import numpy as np

from training.confidence_fit import Reliability
from training.plots import BLUE, FAINT, STYLE, new_figure, write_picture


def draw_reliability(reliability: Reliability, out: Path) -> None:
    """Draw the share that passed over the confidence, for bins of equally many captions, as PNG.

    A bar is two standard errors of a share of so many captions.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 4.6)
        axes = figure.subplots()
        said = np.array([one.confidence for one in reliability.bins])
        came = np.array([one.passed for one in reliability.bins])
        counts = np.array([one.captions for one in reliability.bins])
        errors = 2 * np.sqrt(came * (1 - came) / counts)
        top = min(1.0, 0.1 * np.ceil(10 * max(said.max(), (came + errors).max())))
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", label="as said")
        axes.axhline(
            reliability.base_rate, color=FAINT, linewidth=1, linestyle=":", label="all captions"
        )
        axes.errorbar(
            said, came, yerr=np.minimum(errors, came), color=BLUE, marker="o", capsize=2,
            label="captions left out of the fit",
        )  # fmt: skip
        axes.set(
            xlim=(0, top), ylim=(0, top), aspect="equal",
            xlabel="confidence", ylabel="share of captions that passed the bar",
            title=f"Reliability, {reliability.captions:,} captions",
        )  # fmt: skip
        axes.legend(loc="upper left")
        write_picture(out, figure)
