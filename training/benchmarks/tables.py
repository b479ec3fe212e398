"""Result pages of the benchmarks: our numbers beside the paper's.

Every number states its seeds, its epochs of those that were asked for, and its learning rate. As
the authors did, "best of n" is the test accuracy of the run with the best validation accuracy, over
seeds and learning rates. The mean and the spread are over the seeds of the one learning rate whose
mean validation accuracy is best.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from training.benchmarks.reproductions import Reproduction, Row, Run, Setting
from training.benchmarks.run_results import RunResult

REACHED = 90.0  # per cent of validation accuracy, for the speed of convergence


@dataclass(frozen=True)
class Summary:
    """Accuracies of the runs of one row in one column."""

    row: Row
    column: str
    paper: float | None
    values: tuple[float, ...]  # one for each seed, in per cent
    best: float | None
    candidates: int  # runs that the best was chosen from
    lr: float | None
    common_epoch: float | None = None  # for curves: the last that all runs of the column reached
    at_common_epoch: tuple[float, ...] = ()
    epochs_to_reach: tuple[float | None, ...] = ()

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds; None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)[1:]}
        return {"method": self.row.label, **values, "mean": self.mean, "spread": self.spread}


RunResults = Mapping[Run, RunResult]


def summarise(reproduction: Reproduction, results: RunResults) -> list[Summary]:
    """Return a summary for each row and column of the table, or of what a figure shows."""
    if reproduction.delays:
        return [
            _tested(row, f"T = {delay}", number, _runs_of(row, results), partial(_at_delay, delay))
            for row in reproduction.rows
            for number, delay in enumerate(reproduction.delays)
        ]
    settings = reproduction.settings
    if reproduction.is_table:
        return [
            _tested(row, setting.title, number, _runs_of(row, results, setting), _test)
            for row in reproduction.rows
            for number, setting in enumerate(settings)
            if row.only in (None, setting)
        ]
    return [
        _trained(row, setting, lr, results)
        for setting in settings
        for lr in sorted({run.lr for run in results}, reverse=True)
        for row in reproduction.rows
        if row.only in (None, setting)
    ]


def _runs_of(row: Row, results: RunResults, setting: Setting | None = None) -> RunResults:
    return {
        run: result
        for run, result in results.items()
        if run.row == row and setting in (None, run.setting)
    }


def _test(result: RunResult) -> float | None:
    return result.test


def _at_delay(delay: int, result: RunResult) -> float | None:
    return result.transfer.get(delay)


def _tested(
    row: Row,
    column: str,
    number: int,
    results: RunResults,
    score: Callable[[RunResult], float | None],
) -> Summary:
    """Summarise the runs that have this score; `number` counts the columns of the table."""
    mine = {run: one for run, one in results.items() if score(one) is not None}
    lr, chosen = _best_rate(mine)
    best = max(mine.values(), key=lambda one: one.validation or 0.0, default=None)
    return Summary(
        row,
        column,
        row.paper[number] if row.paper else None,
        tuple(value for one in chosen if (value := score(one)) is not None),
        None if best is None else score(best),
        len(mine),
        lr,
    )


def _trained(row: Row, setting: Setting, lr: float, results: RunResults) -> Summary:
    column = {run: one for run, one in results.items() if run.setting == setting and run.lr == lr}
    reached = [{epoch for epoch, _ in result.curve} for result in column.values()]
    common = max(set.intersection(*reached), default=None) if reached else None
    mine = [result for run, result in column.items() if run.row == row and result.curve]
    values = tuple(result.validation for result in mine if result.validation is not None)
    return Summary(
        row,
        f"{setting.title}, lr {lr:g}",
        None,
        values,
        max(values, default=None),
        len(values),
        lr,
        common_epoch=common,
        at_common_epoch=tuple(
            accuracy for one in mine for epoch, accuracy in one.curve if epoch == common
        ),
        epochs_to_reach=tuple(
            next((epoch for epoch, accuracy in one.curve if accuracy >= REACHED), None)
            for one in mine
        ),
    )


def _best_rate(results: RunResults) -> tuple[float | None, list[RunResult]]:
    """Return the learning rate of the best mean validation accuracy, and its results."""
    by_rate: dict[float, list[RunResult]] = {}
    for run, result in results.items():
        by_rate.setdefault(run.lr, []).append(result)
    if not by_rate:
        return None, []
    rate = max(
        by_rate, key=lambda lr: statistics.fmean(one.validation or 0.0 for one in by_rate[lr])
    )
    return rate, by_rate[rate]


def markdown(
    reproduction: Reproduction,
    summaries: Sequence[Summary],
    results: RunResults,
    *,
    asked: Mapping[Run, int],
    failures: Mapping[Run, str],
    origin: Mapping[str, str],
    picture: str,
) -> str:
    """Return the page of a reproduction. `origin` says by what command and where it was made."""
    lines = [f"# {reproduction.title}", "", f"![{reproduction.title}]({picture})", ""]
    lines += [f"The paper: {reproduction.claim}", ""]
    lines += _table(summaries, is_curve=not (reproduction.is_table or reproduction.delays))
    lines += ["", "## How far each run went", "", _how_far(results, asked), ""]
    lines += [
        "| run | epochs of asked (paper's) | best validation | test | trained by | |",
        "|---|---|---|---|---|---|",
    ]
    for run, result in results.items():
        note = failures[run] or ("" if result.epochs else "not run")
        papers = run.setting.epochs if run.setting.is_papers else "-"
        lines.append(
            f"| {run.name} | {result.epochs:.4g} of {asked[run]} ({papers}) "
            f"| {_number(result.validation)} | {_number(result.test)} "
            f"| {', '.join(result.commits)} | {_cell(note)} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in origin.items()), ""]
    return "\n".join(lines)


def _table(summaries: Sequence[Summary], *, is_curve: bool) -> list[str]:
    if is_curve:
        lines = [
            "Validation accuracy in per cent: the best epoch of each run, and the last epoch "
            "that all runs of a panel reached.",
            "",
            f"| method | panel | mean | spread | best of n | at epoch | epochs to {REACHED:g} % |",
            "|---|---|---|---|---|---|---|",
        ]
    else:
        lines = [
            "Accuracy in per cent.",
            "",
            "| method | column | paper | mean | spread | best of n | learning rate |",
            "|---|---|---|---|---|---|---|",
        ]
    for one in summaries:
        best = f"{_number(one.best)} of {one.candidates}" if one.candidates else "not run"
        means = f"{_number(one.mean)} | {_number(one.spread)} | {best}"
        if is_curve:
            at = statistics.fmean(one.at_common_epoch) if one.at_common_epoch else None
            reached = ", ".join("-" if e is None else f"{e:g}" for e in one.epochs_to_reach)
            common = "" if one.common_epoch is None else f"{one.common_epoch:g}: {_number(at)}"
            lines.append(f"| {one.row.label} | {one.column} | {means} | {common} | {reached} |")
        else:
            rate = "" if one.lr is None else f"{one.lr:g}"
            lines.append(
                f"| {one.row.label} | {one.column} | {_number(one.paper)} | {means} | {rate} |"
            )
    return lines


def _how_far(results: RunResults, asked: Mapping[Run, int]) -> str:
    whole = sum(result.epochs >= asked[run] for run, result in results.items())
    absent = sum(result.epochs == 0 for result in results.values())
    is_shorter = any(run.setting.is_papers and asked[run] < run.setting.epochs for run in results)
    text = f"{whole} of {len(results)} runs came to the end of what was asked for"
    text += f", {absent} were not run." if absent else "."
    if is_shorter:
        text += " That is fewer epochs than the paper's, and no run shows all that its method can."
    elif whole + absent < len(results):
        text += " The others were cut short: their numbers are not what the method can do."
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
