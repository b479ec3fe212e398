"""Reproduction of a table or figure of the h-detach paper: all its trainings, and a page.

The runs and the paper's numbers are in `benchmarks/reproductions.py`. The runs are ordinary runs of
`copying.py` and `sequential_mnist.py`, several at a time. Complete ones are skipped and stopped
ones resumed, so the same command can be repeated until all is done. The page says how far each run
went.

    python training/reproduce.py figure2 --seeds 3
    python training/reproduce.py table1 --budget 60 --out runs/hour
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from captioner.devices import choose_device
from captioner.errors import CaptionerError
from captioner.files import write_atomically, write_json
from captioner.options import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    OneLineParser,
    Options,
    add_flags,
    option,
)
from training.benchmarks.figures import draw
from training.benchmarks.reproductions import EXHIBITS, Exhibit, Run, runs_of
from training.benchmarks.schedule import Plan, Schedule, describe_plan
from training.benchmarks.tables import findings_of, markdown
from training.figure_tools import check_folder
from training.mnist import load_mnist
from training.provenance import origin
from training.run_folder import RunFolder

NAME = "reproduce"
_BAD_INPUT, _INTERRUPTED = 2, 130  # exit statuses
_GPU_BYTES_PER_RUN = 3 << 30  # CUDA's context, a batch of 784 steps, an evaluation; an estimate
_RUNS_PER_CORE = 2  # on a GPU, where a core only launches


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(Options):
    seeds: int = option(3, "seeds of each method, counted from 0", within=AT_LEAST_ONE)
    epochs: int | None = option(
        None,
        "epochs of each run; default: the paper's, 600 and 200; of ablations 12",
        within=AT_LEAST_ONE,
    )
    lr: tuple[float, ...] = option(
        (), "learning rates, in the place of the paper's", within=ABOVE_ZERO
    )
    budget: float | None = option(
        None,
        "minutes for everything; runs are then cut short, and the page says where",
        metavar="MINUTES",
        within=ABOVE_ZERO,
    )
    jobs: int | None = option(
        None,
        "runs at once; default: the cores over --threads, on a GPU as many as fit its memory",
        within=AT_LEAST_ONE,
    )
    threads: int = option(1, "threads of the CPU for each run", within=AT_LEAST_ONE)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", metavar="NAME")
    mnist: str = option("data/mnist", "folder of MNIST", metavar="DIR")
    download: bool = option(False, "fetch MNIST into that folder")
    out: str = option("runs/reproduce", "folder of runs, pages and pictures", metavar="FOLDER")
    report: bool = option(False, "train nothing, tell what is there")


def build_parser() -> OneLineParser:
    parser = OneLineParser(
        prog=f"{NAME}.py",
        description="Rerun a table or figure of the h-detach paper.",
        argument_default=None,
        allow_abbrev=False,
    )
    parser.add_argument("exhibit", choices=list(EXHIBITS), help="what to rerun")
    add_flags(parser, ReproduceConfig)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    given = list(sys.argv[1:] if words is None else words)
    try:
        return reproduce(given)
    except CaptionerError as problem:
        print(f"{NAME}.py: {problem}", file=sys.stderr)
        return _BAD_INPUT


def reproduce(words: list[str]) -> int:
    """Train what is missing, and write the page of an exhibit."""
    values = vars(build_parser().parse_args(words))
    name = values.pop("exhibit")
    given = {key: value for key, value in values.items() if value is not None}
    if "lr" in given:
        given["lr"] = tuple(given["lr"])
    config = ReproduceConfig(**given)
    out, exhibit = Path(config.out), EXHIBITS[name]
    check_folder(out)
    runs = list(runs_of(exhibit, config.seeds, config.lr))
    plan = _plan(config, exhibit, runs)
    with RunFolder(out).locked():
        is_whole = True
        if not config.report:
            print(f"{exhibit.title}: {describe_plan(plan, runs)}", flush=True)
            is_whole = Schedule(plan).carry_out(runs)
        _write_page(name, exhibit, runs, plan, words)
    if not is_whole:
        print("stopped, and all trainings with it; the same command goes on", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _plan(config: ReproduceConfig, exhibit: Exhibit, runs: Sequence[Run]) -> Plan:
    device = choose_device(config.device)
    machine = ("--device", str(device), "--threads", str(config.threads))
    if not config.report and any(run.setting.script == "sequential_mnist" for run in runs):
        load_mnist(Path(config.mnist), download=config.download)  # says what is wrong, once
    return Plan(
        out=Path(config.out),
        jobs=min(config.jobs or _room(device, config.threads), len(runs)),
        epochs=config.epochs,
        delays=exhibit.delays,
        words={
            "copying": machine,
            "sequential_mnist": (*machine, "--mnist", config.mnist),
        },
        budget_seconds=None if config.budget is None else 60 * config.budget,
    )


def _room(device: torch.device, threads: int) -> int:
    """Return how many runs there is room for at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device.type != "cuda":
        return max(1, (cores or 1) // threads)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(1, min(free_bytes // _GPU_BYTES_PER_RUN, _RUNS_PER_CORE * (cores or 1)))


def _write_page(
    name: str, exhibit: Exhibit, runs: Sequence[Run], plan: Plan, words: list[str]
) -> None:
    outcomes = {run: plan.outcome(run) for run in runs}
    failures = {run: plan.failure(run) for run in runs}
    findings = findings_of(exhibit, outcomes)
    asked = {run: plan.asked_epochs(run) for run in runs}
    made_by = {"command": " ".join(["python", f"training/{NAME}.py", *words]), **origin()}
    draw(exhibit, findings, outcomes, plan.out / f"{name}.png")
    page = markdown(
        exhibit,
        findings,
        outcomes,
        asked=asked,
        failures=failures,
        origin=made_by,
        picture=f"{name}.png",
    )
    write_atomically(plan.out / f"{name}.md", page.encode())
    figures = {
        "exhibit": name,
        "title": exhibit.title,
        "origin": made_by,
        "findings": [finding.to_json() for finding in findings],
        "runs": {
            run.name: {
                "epochs_asked": asked[run],
                "epochs_of_the_paper": run.setting.epochs if run.setting.is_papers else None,
                "failure": failures[run],
                **outcomes[run].to_json(),
            }
            for run in runs
        },
    }
    write_json(plan.out / f"{name}.json", figures)
    for run, reason in failures.items():
        if reason:
            print(f"{run.name} broke off: {reason}", file=sys.stderr)
    print(f"written: {plan.out / name}.md, .json and .png")


if __name__ == "__main__":
    sys.exit(main())
