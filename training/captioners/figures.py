"""Pictures of Table 3: scores with their intervals, and what happens while training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.captioners.findings import Finding
from training.captioners.results import Results, grouped, mean_curve
from training.captioners.runs import Group
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
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_COLUMNS = 4  # decoders beside each other
_COLOURS = (INK, BLUE, ORANGE, GREEN, PURPLE, FAINT)  # of the values of p, from the smallest on


def draw_scores(findings: Sequence[Finding], out: Path) -> None:
    """Draw CIDEr of every group: mean with its 95 % interval, and each seed."""
    import matplotlib

    colours = _colours([one.group for one in findings])
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.5, 0.34 * len(findings) + 1.3)
        axes = figure.subplots()
        for height, one in enumerate(findings):
            if not one.scores:
                axes.text(
                    *(0.02, height, "not run"),
                    color=FAINT,
                    va="center",
                    transform=axes.get_yaxis_transform(),
                )
                continue
            cider, colour = one.scores["CIDEr"], colours[one.group.p]
            low, high = (100 * bound for bound in cider.interval)
            axes.plot([low, high], [height, height], color=colour, linewidth=1.5)
            seeds = [100 * value for value in cider.by_seed]
            axes.plot(seeds, [height] * len(seeds), ".", color=colour, alpha=0.5)
            axes.plot(100 * cider.mean, height, "o", color=colour)
        axes.set_yticks(range(len(findings)), [str(one.group) for one in findings])
        axes.set_ylim(len(findings) - 0.5, -0.5)
        axes.set(xlabel="CIDEr × 100 (line: 95 % interval; small dots: seeds)", title="Table 3")
        write_picture(out, figure)


def draw_training(findings: Sequence[Finding], results: Results, out: Path) -> None:
    """Draw for every decoder the CIDEr of each epoch, and the share of the cell's gradient."""
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    decoders = list(dict.fromkeys(one.group.decoder for one in findings))
    groups = grouped(list(results))
    colours = _colours(groups)
    with matplotlib.rc_context(STYLE):
        columns = min(len(decoders), _COLUMNS)
        blocks = -(-len(decoders) // columns)  # of two rows each
        figure = new_figure(max(3.6 * columns, 7.0), 5.8 * blocks + 0.6)
        rows = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
        for empty in range(len(decoders), blocks * columns):
            for row in (-2, -1):
                rows[row, empty % columns].set_visible(False)
        lines: dict[str, Artist] = {}
        for number, decoder in enumerate(decoders):
            block, column = divmod(number, columns)
            curves, shares = rows[2 * block, column], rows[2 * block + 1, column]
            curves.sharey(rows[0, 0])
            shares.sharey(rows[1, 0])
            if not column:
                curves.set_ylabel("CIDEr × 100, greedy")
                shares.set_ylabel("gradient along the cell / %")
            for group, runs in groups.items():
                if group.decoder != decoder:
                    continue
                style = {"color": colours[group.p], "linestyle": "-" if group.is_clipped else "--"}
                own = [results[run].curve for run in runs if results[run].curve]
                for curve in own:
                    _line(curves, curve, alpha=0.3, linewidth=0.8, **style)
                label = f"p = {group.p:g}" + ("" if group.is_clipped else ", not clipped")
                if own:
                    lines[label] = _line(curves, mean_curve(own), **style)
                _draw_shares(shares, next(one for one in findings if one.group == group), style)
            if not shares.lines:
                middle = {"ha": "center", "va": "center", "transform": shares.transAxes}
                shares.text(0.5, 0.5, "no cell state, or not measured", **middle)
            curves.set(title=decoder)
            shares.set(xlabel="epoch")
            shares.tick_params(labelbottom=True)  # a column may end before the last row
            shares.xaxis.set_major_locator(MaxNLocator(integer=True))
        if lines:
            figure.legend(
                list(lines.values()),
                list(lines),
                loc="outside lower center",
                ncols=min(5, len(lines)),
            )
        write_picture(out, figure)


def _draw_shares(axes: "Axes", one: Finding, style: Mapping[str, str]) -> None:
    """Draw the share at the middle one of the lags: the plain gradient, and dotted h-detach's."""
    lags = sorted({int(name.split("/")[1]) for name in one.cell_shares})
    if not lags:
        return
    lag = lags[len(lags) // 2]
    _line(axes, one.cell_shares.get(f"cell_share/{lag}", ()), **style)
    detached = one.cell_shares.get(f"cell_share_detached/{lag}", ())
    _line(axes, detached, color=style["color"], linestyle=":")
    axes.set_title(f"{lag} words back (dotted: with h-detach)", fontsize=9, fontweight="normal")


def _line(axes: "Axes", curve: Sequence[tuple[float, float]], **style: Any) -> "Artist":
    epochs, values = [one for one, _ in curve], [100 * one for _, one in curve]
    marker = "." if len(epochs) < 3 else None
    (line,) = axes.plot(epochs, values, marker=marker, **style)
    return line


def _colours(groups: Sequence[Group] | Mapping[Group, object]) -> dict[float, str]:
    shares = sorted({group.p for group in groups})
    return {p: _COLOURS[number % len(_COLOURS)] for number, p in enumerate(shares)}
