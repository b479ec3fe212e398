"""Command of Table 3: trains the captioners that are missing, and writes the page of all."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.files import write_atomically, write_json
from captioner.program import INTERRUPTED
from captioner.progress import Progress, duration
from training.background import FLAG, run_in_background
from training.captioners.figures import draw_scores, draw_training
from training.captioners.findings import find
from training.captioners.grid import NAME, Grid, read_grid
from training.captioners.page import markdown
from training.captioners.resampled import Resampled, Resampler
from training.captioners.runs import CaptionerRun
from training.run_folder import RunFolder, origin
from training.schedule import BROKE_OFF, Schedule


def reproduce_table3(argv: Sequence[str], script: Path) -> int:
    """Do what the words behind `table3` say, and return the exit status.

    Raises:
        CaptionerError: an option, the data or the device is wrong; nothing is written then.
    """
    command = ["python", f"training/{script.name}", NAME, *argv]
    grid = read_grid(argv)
    options, runs, plan = grid.options, grid.runs, grid.plan
    if options.background:
        run_in_background([sys.executable, str(script), NAME, *argv], options.out, NAME)
        return 0
    with RunFolder(options.out).locked():
        is_whole = True
        if not options.report:
            whole = f"{len(runs)} runs, {plan.jobs} at once, below {plan.out / 'runs'}"
            if plan.deadline_seconds is not None:
                whole += f"; it ends after {duration(plan.deadline_seconds)}"
            print(f"Table 3: {whole}", flush=True)
            if grid.without_cell and any(options.p):
                names = ", ".join(grid.without_cell)
                print(f"{names}: p = 0 alone, as there is no cell state", flush=True)
            is_whole = Schedule(plan).carry_out(runs)
        _write_results(grid, command)
        missing = [run for run in runs if not plan.is_complete(run)]
        if missing:
            names = ", ".join(run.name for run in missing)
            print(f"missing: {len(missing)} of {len(runs)} runs: {names}", file=sys.stderr)
            again = [word for word in command if word not in ("--report", FLAG)]
            print(f"go on with: {' '.join(again)}", file=sys.stderr)
    if not is_whole:
        return INTERRUPTED
    return BROKE_OFF if any(plan.failure(run) for run in runs) else 0


def _write_results(grid: Grid, command: Sequence[str]) -> None:
    options, runs, plan, data, _ = grid
    results = {run: plan.result(run) for run in runs}
    failures = {run: plan.failure(run) for run in runs}
    complete = [run for run in runs if plan.is_complete(run)]
    resampled: dict[CaptionerRun, Resampled] = {}
    with (
        Resampler(options.bootstrap) as resampler,
        Progress(len(complete), "scores", unit="runs") as progress,
    ):
        for run in complete:
            resampled[run] = resampler.resample(plan.captions(run))
            progress.advance()
    findings = find(runs, results, resampled)
    made_by = {"command": " ".join(command), **origin()}
    pictures = (f"{NAME}.png", f"{NAME}_training.png")
    draw_scores(findings, plan.out / pictures[0])
    draw_training(findings, results, plan.out / pictures[1])
    page = markdown(
        findings,
        results,
        data=data,
        asked_epochs=options.epochs,
        beam_size=plan.beam_size,
        split=plan.split,
        failures=failures,
        missing=[run for run in runs if run not in complete],
        without_cell=grid.without_cell,
        origin=made_by,
        pictures=pictures,
    )
    write_atomically(plan.out / f"{NAME}.md", page.encode())
    figures: dict[str, Any] = {
        "exhibit": NAME,
        "data": data,
        "split": plan.split,
        "beam_size": plan.beam_size,
        "origin": made_by,
        "findings": [one.to_json() for one in findings],
        "runs": {
            run.name: {
                "epochs_asked": options.epochs,
                "failure": failures[run],
                **vars(one),
            }
            for run, one in results.items()
        },
    }
    write_json(plan.out / f"{NAME}.json", figures)
    for run, reason in failures.items():
        if reason:
            print(f"{run.name} broke off: {reason}", file=sys.stderr)
    print(f"written: {plan.out / NAME}.md, .json and .png, and {plan.out / pictures[1]}")
