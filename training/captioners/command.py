"""Command of Table 3: trains the captioners that are missing, and writes the page of all."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from captioner.decoders import DECODERS
from captioner.devices import choose_device
from captioner.errors import OptionError, TrainingError
from captioner.files import read_json, write_atomically, write_json
from captioner.options import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    PROBABILITY,
    OneLineParser,
    Options,
    flag,
    option,
    options_parser,
)
from captioner.program import INTERRUPTED
from captioner.progress import Progress, duration
from training.background import FLAG, run_in_background
from training.captioners.figures import draw_scores, draw_training
from training.captioners.findings import find
from training.captioners.page import markdown
from training.captioners.plan import CaptionerPlan
from training.captioners.resampled import Resampled, Resampler
from training.captioners.runs import CLIPPED, UNCLIPPED, CaptionerRun, options_for, runs_of
from training.command import parse_arguments
from training.config import TrainingConfig
from training.figure_tools import check_folder
from training.recipes import check_with_any_recipe
from training.run_folder import RunFolder, origin
from training.schedule import Schedule
from training.train_coco import TrainCoco

NAME = "table3"
_OF_A_RUN = ("decoder", "seed", "start_from", "patience")
_LAGS = ("1", "5", "10")  # words, at which the cell's share of the gradient is measured


@dataclass(frozen=True, kw_only=True)
class Table3Options(Options):
    p: tuple[float, ...] = option(
        (0.0, 0.1, 0.25, 0.4, 0.5), "probabilities to detach", within=PROBABILITY
    )
    decoders: tuple[str, ...] = option(
        (), f"captioners to train: {', '.join(DECODERS)}; default: all", choices=tuple(DECODERS)
    )
    seeds: int = option(3, "seeds of each, counted from 0", within=AT_LEAST_ONE)
    epochs: int = option(10, "epochs of each run", within=AT_LEAST_ONE)
    clipping: tuple[str, ...] = option(
        (CLIPPED,),
        "with the recipe's gradient clipping, without, or both",
        choices=(CLIPPED, UNCLIPPED),
    )
    beam_size: int = option(3, "beam size of the captions that are scored", within=AT_LEAST_ONE)
    budget: float | None = option(
        None,
        "minutes for everything: starts no run that would not end by then, and stops what trains",
        metavar="MINUTES",
        within=ABOVE_ZERO,
    )
    jobs: int | None = option(
        None, "runs at once; default: the cores over --threads, on a GPU 1", within=AT_LEAST_ONE
    )
    threads: int = option(1, "threads of the CPU for each run", within=AT_LEAST_ONE)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", metavar="NAME")
    bootstrap: int = option(
        1000, "draws of images and seeds, for intervals and p-values", within=AT_LEAST_ONE
    )
    out: Path = option(
        Path("runs/reproduce"), "folder of runs, pages and pictures", metavar="FOLDER"
    )
    report: bool = option(False, "train nothing, tell what is there")
    background: bool = option(
        False, "go on without the terminal, at the lowest priority, with a log in --out"
    )

    def contradictions(self) -> Iterable[str]:
        if self.bootstrap < 2:
            yield f"--bootstrap is {self.bootstrap}; draw at least 2 times"
        if self.report and self.background:
            yield "--report trains nothing, so it needs no --background; give one of them"


class Grid(NamedTuple):
    """What the command line asks for."""

    options: Table3Options
    runs: list[CaptionerRun]
    plan: CaptionerPlan
    data: str  # its name


def build_parser() -> OneLineParser:
    """Return the parser of what follows `table3` on the command line."""
    return options_parser(
        Table3Options,
        prog=f"reproduce.py {NAME}",
        description=(
            "Train the captioners of the paper's Table 3 with and without h-detach, and compare "
            "their captions. Runs that are complete are left alone, stopped ones go on, so the "
            "same command can be repeated until all is done."
        ),
        epilog=(
            "All other options are those of train_coco.py and hold for every run: --data, "
            "--encoder, --encoder-weights, --feature-store, sizes of layers, ... The encoder stays "
            "frozen, so that all runs share stored features, unless --fine-tune-encoder is given. "
            "An option that some decoders lack holds for the others."
        ),
    )


def reproduce_table3(argv: Sequence[str], script: Path) -> int:
    """Do what the words behind `table3` say, and return the exit status.

    Raises:
        CaptionerError: an option, the data or the device is wrong; nothing is written then.
    """
    command = ["python", f"training/{script.name}", NAME, *argv]
    grid = read_grid(argv)
    options, runs, plan, _ = grid
    if options.background:
        run_in_background([sys.executable, str(script), NAME, *argv], options.out, NAME)
        return 0
    with RunFolder(options.out).locked():
        keep_settings(plan)
        is_whole = True
        if not options.report:
            whole = f"{len(runs)} runs, {plan.jobs} at once, below {plan.out / 'runs'}"
            if plan.deadline_seconds is not None:
                whole += f"; it ends after {duration(plan.deadline_seconds)}"
            print(f"Table 3: {whole}", flush=True)
            is_whole = Schedule(plan).carry_out(runs)
        _write_results(grid, command)
        missing = [run for run in runs if not plan.is_complete(run)]
        if missing:
            names = ", ".join(run.name for run in missing)
            print(f"missing: {len(missing)} of {len(runs)} runs: {names}", file=sys.stderr)
            again = [word for word in command if word not in ("--report", FLAG)]
            print(f"go on with: {' '.join(again)}", file=sys.stderr)
    return 0 if is_whole else INTERRUPTED


def keep_settings(plan: CaptionerPlan) -> None:
    """Note what all runs of a folder are trained with, which later calls must not change.

    Raises:
        OptionError: the runs that are there were trained otherwise.
    """
    path = plan.out / f"{NAME}_settings.json"
    own = {"training": list(plan.training), "epochs": plan.epochs_of_all}
    if not path.exists():
        write_json(path, own)
        return
    there = read_json(path, "the settings of the runs", TrainingError)
    if there != own:
        before = " ".join([*there.get("training", ()), "--epochs", str(there.get("epochs"))])
        raise OptionError(
            f"the runs in {plan.out} are trained with {before}; give the same options, or another "
            "--out"
        )


def read_grid(argv: Sequence[str]) -> Grid:
    """Return the runs that the command line asks for, all of their options checked.

    Raises:
        CaptionerError: an option, the data or the device is wrong.
    """
    known, others = build_parser().parse_known_args(list(argv))
    options = Table3Options.from_json(vars(known))
    check_folder(options.out)
    decoders = tuple(dict.fromkeys(options.decoders or DECODERS))
    shares = tuple(dict.fromkeys(options.p))
    runs = list(runs_of(decoders, shares, options.seeds, tuple(dict.fromkeys(options.clipping))))
    program = TrainCoco()
    for word in others:
        if word.split("=")[0] in map(flag, _OF_A_RUN):
            raise OptionError(
                f"{word} is not for all runs of {NAME}; see reproduce.py {NAME} --help for what "
                "there is in its place"
            )
    training = _with_defaults(others)
    for run in runs:
        if run.seed == 0:
            own = options_for(run.decoder, training)
            given = parse_arguments(program, [*own, *run.arguments]).given
            check_with_any_recipe(given, TrainingConfig.from_json)
    for word in others:
        if word.startswith("--") and all(word not in options_for(one, others) for one in decoders):
            raise OptionError(f"{word} is an option of none of {', '.join(decoders)}; leave it out")
    first = [*options_for(decoders[0], training), *runs[0].arguments]
    given = parse_arguments(program, first).given
    configured = program.configure(given)
    dataset = configured.data
    device = choose_device(options.device)
    training += ["--data", *configured.config.data]
    if configured.config.images:
        training += ["--images", *configured.config.images]
    has_test = any(any(image.captions) for image in dataset.split("test"))
    plan = CaptionerPlan(
        out=options.out,
        jobs=min(options.jobs or _room(device.type, options.threads), len(runs)),
        epochs_of_all=options.epochs,
        split="test" if has_test else "val",
        beam_size=options.beam_size,
        training=training,
        machine=("--device", str(device), "--threads", str(options.threads)),
        runs=runs,
        deadline_seconds=None if options.budget is None else 60 * options.budget,
    )
    return Grid(options, runs, plan, dataset.name)


def _with_defaults(others: Sequence[str]) -> list[str]:
    """Return the options of all trainings: those given, and what every run needs beside them."""
    defaults = ["--beam-size", "1", "--gradient-lags", *_LAGS]
    if not any(word.split("=")[0] == "--fine-tune-encoder" for word in others):
        defaults += ["--fine-tune-encoder", "none"]
    return [*defaults, *others]


def _room(device: str, threads: int) -> int:
    """Return how many runs there is room for at once."""
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // threads)


def _write_results(grid: Grid, command: Sequence[str]) -> None:
    options, runs, plan, data = grid
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
