"""Pictures of a reproduction: curves of training, or numbers by column."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.benchmarks.reproductions import Reproduction, Row
from training.benchmarks.tables import RunResults, Summary
from training.plots import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    STYLE,
    new_figure,
    write_picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (INK, BLUE, ORANGE, GREEN, PURPLE, FAINT)


def draw(
    reproduction: Reproduction, summaries: Sequence[Summary], results: RunResults, out: Path
) -> None:
    """Write the picture of a reproduction."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        if reproduction.delays:
            figure = _over_delays(reproduction, summaries)
        elif reproduction.is_table:
            figure = _beside_the_paper(reproduction, summaries)
        else:
            figure = _curves(reproduction, results)
        write_picture(out, figure)


def _curves(reproduction: Reproduction, results: RunResults) -> Any:
    """A panel for each setting and learning rate; a line for each seed."""
    from matplotlib.ticker import MaxNLocator

    panels = [
        (setting, lr)
        for setting in reproduction.settings
        for lr in sorted({run.lr for run in results}, reverse=True)
    ]
    figure = new_figure(4.2 * len(panels) + 0.6, 4.2)
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    lines: dict[str, Any] = {}  # by what the legend calls them, once for all panels and seeds
    for axes, (setting, lr) in zip(every, panels, strict=True):
        for number, row in enumerate(reproduction.rows):
            for run, result in results.items():
                if (run.row, run.setting, run.lr) == (row, setting, lr) and result.curve:
                    epochs, accuracies = zip(*result.curve, strict=True)
                    (lines[row.label],) = axes.plot(
                        epochs,
                        accuracies,
                        color=_COLOURS[number % len(_COLOURS)],
                        linewidth=1.2,
                        marker="." if len(epochs) < 3 else None,
                    )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", title=f"{setting.title}, lr {lr:g}", ylim=(0, 101))
        if not axes.lines:
            _say(axes, "not run", (0.5, 0.5), axes.transAxes)
    every[0].set_ylabel("validation accuracy, %")
    if lines:
        columns = min(len(lines), 2 * len(panels))
        figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=columns)
    return figure


def _over_delays(reproduction: Reproduction, summaries: Sequence[Summary]) -> Any:
    figure = new_figure(7, 4.4)
    axes = figure.subplots()
    for number, row in enumerate(reproduction.rows):
        mine = [one for one in summaries if one.row == row]
        colour = _COLOURS[number % len(_COLOURS)]
        at = dict(zip(reproduction.delays, mine, strict=True))
        published = {delay: one.paper for delay, one in at.items() if one.paper is not None}
        if published:
            axes.plot(
                list(published),
                list(published.values()),
                color=colour,
                linestyle="--",
                linewidth=1,
                alpha=0.7,
            )
        known = {delay: one for delay, one in at.items() if one.values}
        if known:
            axes.errorbar(
                list(known),
                [statistics.fmean(one.values) for one in known.values()],
                yerr=[one.spread or 0.0 for one in known.values()],
                color=colour,
                label=row.label,
                marker="o",
                capsize=3,
            )
    axes.set_xscale("log")
    axes.set_xticks(reproduction.delays, [str(delay) for delay in reproduction.delays])
    axes.minorticks_off()
    has_printed = any(any(row.paper) for row in reproduction.rows)
    xlabel = "delay T (dashed: the paper)" if has_printed else "delay T"
    axes.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, 101))
    axes.set_title(reproduction.title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _beside_the_paper(reproduction: Reproduction, summaries: Sequence[Summary]) -> Any:
    """A panel for each setting, a line for each row: the paper's number, each seed, their mean."""
    figure = new_figure(4.6 * len(reproduction.settings) + 1.5, 0.4 * len(reproduction.rows) + 1.6)
    every = figure.subplots(1, len(reproduction.settings), squeeze=False, sharey=True)[0]
    for axes, setting in zip(every, reproduction.settings, strict=True):
        for one in summaries:
            if one.column == setting.title:
                _mark(axes, one, reproduction.rows)
        measure = "test perplexity" if setting.score == "perplexity" else "test accuracy, %"
        papers = "" if all(one.paper is None for one in summaries) else "bar: the paper; "
        axes.set(xlabel=f"{measure} ({papers}dots: seeds, mean)", title=setting.title)
        axes.set_yticks(range(len(reproduction.rows)), [row.label for row in reproduction.rows])
        axes.set_ylim(len(reproduction.rows) - 0.5, -0.5)
    return figure


def _mark(axes: "Axes", one: Summary, rows: Sequence[Row]) -> None:
    height = rows.index(one.row)
    if one.paper is not None:
        axes.plot(one.paper, height, marker="|", color=ORANGE, markersize=16, markeredgewidth=2.5)
    if one.values:
        axes.plot(one.values, [height] * len(one.values), ".", color=BLUE, alpha=0.5)
        axes.plot(statistics.fmean(one.values), height, "o", color=BLUE)
    else:
        _say(axes, one.absence, (0.07, height), axes.get_yaxis_transform())


def _say(axes: "Axes", words: str, where: tuple[float, float], coordinates: Any) -> None:
    axes.text(*where, words, color=FAINT, ha="center", va="center", transform=coordinates)
