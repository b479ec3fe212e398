"""Result pages of the benchmarks: our numbers beside the paper's.

Every number states its seeds, its epochs of those that were asked for, and its learning rate. As
the authors did, "best of n" is the test accuracy of the run with the best validation accuracy, over
seeds and learning rates. The mean and the spread are over the seeds of the one learning rate whose
mean validation accuracy is best.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.benchmarks.reproductions import Exhibit, Row, Run, Setting
from training.benchmarks.run_results import Outcome

REACHED = 90.0  # per cent of validation accuracy, for the speed of convergence


@dataclass(frozen=True)
class Finding:
    """What the runs of one row came to in one column."""

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
        return {
            "method": self.row.label,
            "column": self.column,
            "paper": self.paper,
            "lr": self.lr,
            "values": list(self.values),
            "mean": self.mean,
            "spread": self.spread,
            "best": self.best,
            "candidates": self.candidates,
            "common_epoch": self.common_epoch,
            "at_common_epoch": list(self.at_common_epoch),
            "epochs_to_reach": list(self.epochs_to_reach),
        }


Outcomes = Mapping[Run, Outcome]


def findings_of(exhibit: Exhibit, outcomes: Outcomes) -> list[Finding]:
    """Return a finding for each row and column of the table, or of what a figure shows."""
    if exhibit.delays:
        return list(_transfer(exhibit, outcomes))
    if exhibit.is_table:
        return [
            _tested(row, setting, number, outcomes)
            for row in exhibit.rows
            for number, setting in enumerate(exhibit.settings)
            if row.only in (None, setting)
        ]
    return [
        _trained(row, setting, lr, outcomes)
        for setting in exhibit.settings
        for lr in sorted({run.lr for run in outcomes}, reverse=True)
        for row in exhibit.rows
        if row.only in (None, setting)
    ]


def _transfer(exhibit: Exhibit, outcomes: Outcomes) -> Sequence[Finding]:
    found = []
    for row in exhibit.rows:
        mine = {run: one for run, one in outcomes.items() if run.row == row and one.transfer}
        lr, chosen = _best_rate(mine)
        best = max(mine.values(), key=lambda one: one.validation or 0.0, default=None)
        for number, delay in enumerate(exhibit.delays):
            found.append(
                Finding(
                    row,
                    f"T = {delay}",
                    row.paper[number] if row.paper else None,
                    tuple(one.transfer[delay] for one in chosen if delay in one.transfer),
                    None if best is None else best.transfer.get(delay),
                    len(mine),
                    lr,
                )
            )
    return found


def _tested(row: Row, setting: Setting, column: int, outcomes: Outcomes) -> Finding:
    mine = {
        run: outcome
        for run, outcome in outcomes.items()
        if run.row == row and run.setting == setting and outcome.test is not None
    }
    lr, chosen = _best_rate(mine)
    best = max(mine.values(), key=lambda one: one.validation or 0.0, default=None)
    return Finding(
        row,
        setting.title,
        row.paper[column] if row.paper else None,
        tuple(one.test for one in chosen if one.test is not None),
        None if best is None else best.test,
        len(mine),
        lr,
    )


def _trained(row: Row, setting: Setting, lr: float, outcomes: Outcomes) -> Finding:
    column = {run: o for run, o in outcomes.items() if run.setting == setting and run.lr == lr}
    reached = [{epoch for epoch, _ in outcome.curve} for outcome in column.values()]
    common = max(set.intersection(*reached), default=None) if reached else None
    mine = [outcome for run, outcome in column.items() if run.row == row and outcome.curve]
    values = tuple(outcome.validation for outcome in mine if outcome.validation is not None)
    return Finding(
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


def _best_rate(outcomes: Outcomes) -> tuple[float | None, list[Outcome]]:
    """Return the learning rate of the best mean validation accuracy, and its outcomes."""
    by_rate: dict[float, list[Outcome]] = {}
    for run, outcome in outcomes.items():
        by_rate.setdefault(run.lr, []).append(outcome)
    if not by_rate:
        return None, []
    rate = max(
        by_rate, key=lambda lr: statistics.fmean(one.validation or 0.0 for one in by_rate[lr])
    )
    return rate, by_rate[rate]


def markdown(
    exhibit: Exhibit,
    findings: Sequence[Finding],
    outcomes: Outcomes,
    *,
    asked: Mapping[Run, int],
    failures: Mapping[Run, str],
    origin: Mapping[str, str],
    picture: str,
) -> str:
    """Return the page of an exhibit. `origin` says by what command and where it was made."""
    lines = [f"# {exhibit.title}", "", f"![{exhibit.title}]({picture})", ""]
    lines += [f"The paper: {exhibit.says}", ""]
    lines += _table(findings, is_curve=not (exhibit.is_table or exhibit.delays))
    lines += ["", "## How far each run went", "", _how_far(outcomes, asked), ""]
    lines += [
        "| run | epochs of asked (paper's) | best validation | test | trained by | |",
        "|---|---|---|---|---|---|",
    ]
    for run, outcome in outcomes.items():
        note = failures[run] or ("" if outcome.epochs else "not run")
        papers = run.setting.epochs if run.setting.is_papers else "-"
        lines.append(
            f"| {run.name} | {outcome.epochs:.4g} of {asked[run]} ({papers}) "
            f"| {_number(outcome.validation)} | {_number(outcome.test)} "
            f"| {', '.join(outcome.commits)} | {_cell(note)} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in origin.items()), ""]
    return "\n".join(lines)


def _table(findings: Sequence[Finding], *, is_curve: bool) -> list[str]:
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
    for one in findings:
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


def _how_far(outcomes: Outcomes, asked: Mapping[Run, int]) -> str:
    whole = sum(outcome.epochs >= asked[run] for run, outcome in outcomes.items())
    absent = sum(outcome.epochs == 0 for outcome in outcomes.values())
    is_shorter = any(run.setting.is_papers and asked[run] < run.setting.epochs for run in outcomes)
    text = f"{whole} of {len(outcomes)} runs came to the end of what was asked for"
    text += f", {absent} were not run." if absent else "."
    if is_shorter:
        text += " That is fewer epochs than the paper's, and no run shows all that its method can."
    elif whole + absent < len(outcomes):
        text += " The others were cut short: their numbers are not what the method can do."
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
