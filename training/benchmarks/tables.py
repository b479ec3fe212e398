"""Result pages of the benchmarks: our numbers beside the paper's.

Every number states its seeds, its epochs of those that were asked for, and its learning rate. As
the authors did, "best of n" is the test accuracy of the run with the best validation accuracy, over
seeds and learning rates. The mean and the spread are over the seeds of the one learning rate whose
mean validation accuracy is best.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from training.benchmarks.reproductions import Reproduction, Row, Run, Setting
from training.benchmarks.run_results import RunResult, is_better_low

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
    is_begun: bool = False  # a run trained, for however short a time

    @property
    def absence(self) -> str:
        """Why there is no value, where there is none."""
        return "cut short" if self.is_begun else "not run"

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds; None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        names = [item.name for item in fields(self) if item.name not in ("row", "is_begun")]
        values = {name: getattr(self, name) for name in names}
        return {"method": self.row.label, **values, "mean": self.mean, "spread": self.spread}


RunResults = Mapping[Run, RunResult]


def summarise(reproduction: Reproduction, results: RunResults) -> list[Summary]:
    """Return a summary for each row and column of the table, or of what a figure shows."""
    if reproduction.delays:
        return [
            _tested(row, f"T = {delay}", number, results, delay=delay)
            for row in reproduction.rows
            for number, delay in enumerate(reproduction.delays)
        ]
    if reproduction.is_table:
        return [
            _tested(row, setting.title, number, results, setting)
            for row in reproduction.rows
            for number, setting in enumerate(reproduction.settings)
            if row.only in (None, setting)
        ]
    return [
        _trained(row, setting, lr, results)
        for setting in reproduction.settings
        for lr in sorted({run.lr for run in results}, reverse=True)
        for row in reproduction.rows
        if row.only in (None, setting)
    ]


def _tested(
    row: Row,
    column: str,
    number: int,
    results: RunResults,
    setting: Setting | None = None,
    delay: int | None = None,
) -> Summary:
    """Summarise the runs that were tested; `number` counts the columns of the table."""
    mine = {
        run: result
        for run, result in results.items()
        if run.row == row and setting in (None, run.setting)
    }
    scores = {
        run: score
        for run, result in mine.items()
        if (score := result.test if delay is None else result.transfer.get(delay)) is not None
    }
    lr, chosen = _best_rate({run: results[run] for run in scores})
    best = max(scores, key=lambda run: _worth(run, results[run]), default=None)
    return Summary(
        row,
        column,
        row.paper[number] if row.paper else None,
        tuple(scores[run] for run in chosen),
        None if best is None else scores[best],
        len(scores),
        lr,
        is_begun=any(result.epochs for result in mine.values()),
    )


def _trained(row: Row, setting: Setting, lr: float, results: RunResults) -> Summary:
    column = {run: one for run, one in results.items() if run.setting == setting and run.lr == lr}
    reached = [{epoch for epoch, _ in result.curve} for result in column.values()]
    common = max(set.intersection(*reached), default=None) if reached else None
    every = [result for run, result in column.items() if run.row == row]
    mine = [result for result in every if result.curve]
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
        is_begun=any(result.epochs for result in every),
    )


def _best_rate(results: RunResults) -> tuple[float | None, list[Run]]:
    """Return the learning rate of the best mean validation accuracy, and its runs."""

    def mean(rate: float) -> float:
        return statistics.fmean(_worth(run, one) for run, one in results.items() if run.lr == rate)

    best = max(dict.fromkeys(run.lr for run in results), key=mean, default=None)
    return best, [run for run in results if run.lr == best]


def _worth(run: Run, result: RunResult) -> float:
    """Return the best validation as a number of which more is better."""
    value = result.validation or 0.0
    return -value if is_better_low(run.setting.score) else value


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
    measure = (
        "Perplexity; less is better."
        if any(is_better_low(one.score) for one in reproduction.settings)
        else "Accuracy in per cent."
    )
    is_curve = not (reproduction.is_table or reproduction.delays)
    lines += _table(summaries, measure, is_curve=is_curve)
    lines += ["", "## How far each run went", "", _how_far(results, asked), ""]
    lines += [
        "| run | epochs of asked (paper's) | best validation | test | trained by | |",
        "|---|---|---|---|---|---|",
    ]
    for run, result in results.items():
        note = failures[run].replace("|", "\\|") or ("" if result.epochs else "not run")
        papers = run.setting.epochs if run.setting.is_papers else "-"
        lines.append(
            f"| {run.name} | {result.epochs:.4g} of {asked[run]} ({papers}) "
            f"| {_number(result.validation)} | {_number(result.test)} "
            f"| {', '.join(result.commits)} | {note} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in origin.items()), ""]
    return "\n".join(lines)


def _table(summaries: Sequence[Summary], measure: str, *, is_curve: bool) -> list[str]:
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
            measure,
            "",
            "| method | column | paper | mean | spread | best of n | learning rate |",
            "|---|---|---|---|---|---|---|",
        ]
    for one in summaries:
        best = f"{_number(one.best)} of {one.candidates}" if one.candidates else one.absence
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
