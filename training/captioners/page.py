"""The page of Table 3: what p > 0 does to each captioner, and how it was found out."""

import statistics
from collections.abc import Mapping, Sequence

from training.captioners.findings import COMPARED, Finding, verdicts
from training.captioners.resampled import Estimate
from training.captioners.results import Results
from training.captioners.runs import METRICS, PRINTED, CaptionerRun

_HEADINGS = ("B-1", "B-2", "B-3", "B-4", "METEOR", "CIDEr")
_CLAIM = (
    "h-detach improves Show&Tell (p = 0.25) and soft attention (p = 0.4) on all metrics on COCO, "
    "with a ResNet-152 that is trained too: CIDEr 93.0 to 98.0, and 96.6 to 103.3"
)

_OF_ANOTHER = (
    "**{} is another data set than the paper's COCO**: its numbers stand here for the order of the "
    "methods, not to be compared one by one."
)
_OF_COCO = (
    "**Encoder, sizes and epochs are those of the command below, not the paper's**: the numbers "
    "are not to be compared one by one."
)


def markdown(
    findings: Sequence[Finding],
    results: Results,
    *,
    data: str,
    asked_epochs: int,
    beam_size: int,
    split: str,
    failures: Mapping[CaptionerRun, str],
    missing: Sequence[CaptionerRun],
    without_cell: Sequence[str],
    origin: Mapping[str, str],
    pictures: Sequence[str],
) -> str:
    """Return the page. `data` says what was learned; `origin` by what command, and where."""
    lines = [f"# Table 3: captioners with and without h-detach, on {data}", ""]
    said = verdicts(findings)
    if said:
        lines += [said[0], "", *(f"- {line}" for line in said[1:])]
    else:
        lines += ["Nothing is compared yet."]
    lines += [
        "",
        f"The paper: {_CLAIM}. {_OF_COCO if data == 'coco' else _OF_ANOTHER.format(data)}",
    ]
    lines += ["", *(f"![{name.removesuffix('.png')}]({name})" for name in pictures), ""]
    lines += _scores(findings, data, beam_size, split)
    if without_cell:
        lines += [f"{', '.join(without_cell)}: a network without a cell state has p = 0 alone.", ""]
    lines += _differences(findings)
    lines += _convergence(findings, asked_epochs)
    lines += _cell_shares(findings)
    lines += _runs(results, asked_epochs, failures, missing)
    lines += ["", *(f"- {name}: {value}" for name, value in origin.items()), ""]
    return "\n".join(lines)


def _scores(findings: Sequence[Finding], data: str, beam_size: int, split: str) -> list[str]:
    lines = [
        "## Scores",
        "",
        f"Scores times 100 of the images of the split {split} of {data}, beam {beam_size}, by the "
        "model of the epoch with the best CIDEr of greedy captions of the validation images"
        + (" (the same images here, which flatters all rows alike)" if split == "val" else "")
        + ". In brackets 95 % intervals over images and seeds; the spread is the standard "
        "deviation of CIDEr over the seeds.",
        "",
        "| captioner | p | seeds | " + " | ".join(_HEADINGS) + " | spread |",
        "|---" * (len(_HEADINGS) + 4) + "|",
    ]
    for number, one in enumerate(findings):
        name = one.group.decoder + ("" if one.group.is_clipped else ", not clipped")
        start = f"| {name} | {one.group.p:g} | {len(one.seeds) or 'not run'} |"
        cells = [_estimate(one.scores.get(metric)) for metric in METRICS]
        spread = one.scores["CIDEr"].spread if one.scores else None
        cells.append("" if spread is None else f"{100 * spread:.2f}")
        lines.append(f"{start} {' | '.join(cells)} |")
        if [other.group.decoder for other in findings[number + 1 :]][:1] != [one.group.decoder]:
            for row in PRINTED.get(one.group.decoder, ()):
                printed = ["-" if value is None else f"{value:.1f}" for value in row.scores]
                lines.append(f"| *{row.label}, paper, COCO* | | | {' | '.join(printed)} | |")
    return [*lines, ""]


def _estimate(one: Estimate | None) -> str:
    if one is None:
        return ""
    return f"{100 * one.mean:.1f} ({100 * one.interval.low:.1f} to {100 * one.interval.high:.1f})"


def _differences(findings: Sequence[Finding]) -> list[str]:
    rows = [one for one in findings if one.differences]
    if not rows:
        return []
    lines = [
        "## Against p = 0",
        "",
        "Differences times 100 to p = 0 of the same seeds on the same images, with 95 % intervals "
        "over images and seeds, and two-sided p-values (training/captioners/resampled.py). No "
        "correction is made for how many differences are listed.",
        "",
        "| captioner | metric | difference | interval | p-value | seed by seed |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        for metric in COMPARED:
            found = one.differences[metric]
            low, high = found.interval
            seeds = ", ".join(f"{100 * value:+.1f}" for value in found.by_seed)
            lines.append(
                f"| {one.group} | {metric} | {100 * found.mean:+.2f} "
                f"| {100 * low:+.2f} to {100 * high:+.2f} | {found.p_value:.3f} | {seeds} |"
            )
    return [*lines, ""]


def _convergence(findings: Sequence[Finding], asked_epochs: int) -> list[str]:
    rows = [one for one in findings if one.convergence is not None]
    if not rows:
        return []
    lines = [
        "## Speed of convergence",
        "",
        "Greedy captions of the validation images after each epoch. The mean CIDEr over the epochs "
        "that all runs of a captioner reached is the higher, the sooner the curve rises; the goal "
        f"is 90 % of where the mean curve of p = 0 ends (of {asked_epochs} epochs).",
        "",
        "| captioner | epochs | mean CIDEr over them | seed by seed | goal | epochs to reach it |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        assert one.convergence is not None
        own = one.convergence
        seeds = ", ".join(f"{100 * value:.1f}" for value in own.mean_cider)
        epochs = ", ".join("-" if epoch is None else f"{epoch:g}" for epoch in own.epochs_to_reach)
        mean = 100 * statistics.fmean(own.mean_cider)
        cells = (
            one.group,
            f"{own.epochs:g}",
            f"{mean:.1f}",
            seeds,
            f"{100 * own.goal:.1f}",
            epochs,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _cell_shares(findings: Sequence[Finding]) -> list[str]:
    lags = sorted({int(name.split("/")[1]) for one in findings for name in one.cell_shares})
    rows = [
        (one, kind, measure)
        for one in findings
        for kind, measure in (("plain", "cell_share"), ("with h-detach", "cell_share_detached"))
        if any(one.cell_shares.get(f"{measure}/{lag}") for lag in lags)
    ]
    if not rows:
        return []
    lines = [
        "## Gradient along the cell state",
        "",
        "Share in per cent of the gradient with respect to the cell some words back that comes "
        "along the cell state alone, after the first, the middle and the last epoch, in the first "
        "32 validation images with a caption as long (training/cell_paths.py); mean over seeds. "
        "With h-detach it is that of the mean over all masks.",
        "",
        "| captioner | gradient | " + " | ".join(f"{_words(lag)} back" for lag in lags) + " |",
        "|---" * (len(lags) + 2) + "|",
    ]
    for one, kind, measure in rows:
        cells = [_course(one.cell_shares.get(f"{measure}/{lag}", ())) for lag in lags]
        lines.append(f"| {one.group} | {kind} | {' | '.join(cells)} |")
    return [*lines, ""]


def _words(count: int) -> str:
    return f"{count} word" + ("s" if count > 1 else "")


def _course(curve: Sequence[tuple[float, float]]) -> str:
    """Return the first, the middle and the last value of a curve in per cent."""
    values = [value for _, value in curve]
    chosen = (values[0], values[len(values) // 2], values[-1]) if values else ()
    return ", ".join(f"{100 * value:.1f}" for value in chosen)


def _runs(
    results: Results,
    asked_epochs: int,
    failures: Mapping[CaptionerRun, str],
    missing: Sequence[CaptionerRun],
) -> list[str]:
    lines = ["## How far each run went", ""]
    lines.append(f"{len(results) - len(missing)} of {len(results)} runs are complete.")
    lines += [
        "",
        "| run | epochs of asked | best CIDEr, greedy | CIDEr | minutes | trained by | |",
        "|---|---|---|---|---|---|---|",
    ]
    for run, one in results.items():
        best = max((cider for _, cider in one.curve), default=None)
        note = failures[run].replace("|", "\\|")
        if not note and run in missing:
            note = "not complete" if one.epochs else "not run"
        lines.append(
            f"| {run.name} | {one.epochs:.4g} of {asked_epochs} | {_hundred(best)} "
            f"| {_hundred(one.scores.get('CIDEr'))} | {one.seconds / 60:.0f} "
            f"| {', '.join(one.commits)} | {note} |"
        )
    return lines


def _hundred(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
