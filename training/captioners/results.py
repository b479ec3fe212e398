"""Results of a captioner's run of Table 3, read from its folder while it trains or afterwards."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captioner.errors import TrainingError
from captioner.files import read_json
from training.captioners.runs import CaptionerRun, Group, group_of
from training.run_folder import RunFolder, read_metrics

Curve = tuple[tuple[float, float], ...]  # epochs, and a figure after them
_NEARLY = 0.9  # of the CIDEr that is to be reached


@dataclass(frozen=True)
class CaptionerResult:
    """Results of a run so far; scores are those of the metrics, not times 100."""

    epochs: float = 0.0  # validated
    seconds: float = 0.0  # of training and validation
    curve: Curve = ()  # CIDEr of the greedy captions of each validation
    cell_shares: Mapping[str, Curve] = field(default_factory=dict)  # by measure and lag
    scores: Mapping[str, float] = field(default_factory=dict)  # of the best model; empty before
    commits: tuple[str, ...] = ()  # of the code that trained it


def read_result(path: Path, scores: Path) -> CaptionerResult:
    """Return the results of the run in this folder, which need not exist.

    Raises:
        TrainingError: its scores or configuration are damaged.
    """
    folder = RunFolder(path)
    lines = [line for line in read_metrics(folder) if line["kind"] == "validation"]
    names = [name for name in (lines[-1] if lines else ()) if name.startswith("cell_share")]
    origins = folder.read_description().get("origins", []) if folder.config.exists() else []
    found = read_json(scores, "the run's scores", TrainingError) if scores.exists() else {}
    return CaptionerResult(
        epochs=lines[-1]["epoch"] if lines else 0.0,
        seconds=lines[-1]["seconds"] if lines else 0.0,
        curve=tuple((line["epoch"], line["CIDEr"]) for line in lines),
        cell_shares={
            name: tuple((line["epoch"], line[name]) for line in lines if name in line)
            for name in names
        },
        scores={name: value for name, value in found.items() if isinstance(value, float)},
        commits=tuple(dict.fromkeys(origin["commit"] for origin in origins)),
    )


Results = Mapping[CaptionerRun, CaptionerResult]


def grouped(runs: Sequence[CaptionerRun]) -> dict[Group, list[CaptionerRun]]:
    """Return the runs that differ in their seeds alone, decoder by decoder and p by p."""
    found: dict[Group, list[CaptionerRun]] = {}
    for run in runs:
        found.setdefault(group_of(run), []).append(run)
    decoders = list(dict.fromkeys(run.decoder for run in runs))
    order = sorted(found, key=lambda one: (decoders.index(one.decoder), not one.is_clipped, one.p))
    return {group: found[group] for group in order}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves at the epochs that all of them have reached."""
    by_epoch = [dict(curve) for curve in curves if curve]
    common = set.intersection(*map(set, by_epoch)) if by_epoch else set()
    return tuple(
        (epoch, statistics.fmean(one[epoch] for one in by_epoch)) for epoch in sorted(common)
    )


@dataclass(frozen=True)
class Convergence:
    """How soon the runs of a group got how far; a figure for each run."""

    mean_cider: tuple[float, ...]  # over the first `epochs`
    epochs: float  # that all runs of the decoder with the same clipping reached
    epochs_to_reach: tuple[float | None, ...]  # the goal; None where it was not reached
    goal: float


def convergence(
    runs: Mapping[Group, list[CaptionerRun]], results: Results
) -> dict[Group, Convergence]:
    """Return how soon each group got nearly to where its decoder ends without h-detach.

    The goal is 90 % of the last CIDEr of the mean curve of p = 0 with the same clipping; groups
    without such a curve are left out.
    """
    found = {}
    reached: dict[tuple[str, bool], float] = {}
    for group, own in runs.items():
        key = group.decoder, group.is_clipped
        for curve in (results[run].curve for run in own):
            if curve:
                reached[key] = min(reached.get(key, math.inf), curve[-1][0])
    for group, own in runs.items():
        plain = runs.get(Group(group.decoder, 0.0, group.is_clipped), [])
        of_plain = mean_curve([results[run].curve for run in plain])
        begun = [results[run].curve for run in own if results[run].curve]
        if not of_plain or not begun:
            continue
        last = reached[group.decoder, group.is_clipped]
        goal = _NEARLY * of_plain[-1][1]
        found[group] = Convergence(
            mean_cider=tuple(
                statistics.fmean(cider for epoch, cider in curve if epoch <= last)
                for curve in begun
            ),
            epochs_to_reach=tuple(
                next((epoch for epoch, cider in curve if cider >= goal), None) for curve in begun
            ),
            goal=goal,
            epochs=last,
        )
    return found
