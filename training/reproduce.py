"""Reproduction of a table or figure of the h-detach paper: all its trainings, and a page.

The runs and the paper's numbers are in `benchmarks/reproductions.py`. The runs are ordinary runs of
`copying.py` and `sequential_mnist.py`, several at a time. Complete ones are skipped and stopped
ones resumed, so the same command can be repeated until all is done. The page says how far each run
went.

    python training/reproduce.py figure2 --seeds 3
    python training/reproduce.py table1 --budget 60 --out runs/hour

Table 3 is of captioners, has options of its own (`captioners/command.py`) and stands first:

    python training/reproduce.py table3 --data DATA --p 0 0.25 0.4 --budget 120
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from captioner.devices import choose_device
from captioner.errors import OptionError
from captioner.files import write_atomically, write_json
from captioner.flags import OneLineParser, options_parser
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, Options, option
from captioner.program import INTERRUPTED, run_program
from captioner.progress import duration
from training.background import run_in_background
from training.benchmarks.figures import draw
from training.benchmarks.reproductions import (
    REPRODUCTIONS,
    Reproduction,
    Run,
    restricted,
    runs_of,
)
from training.benchmarks.run_results import read_figures
from training.benchmarks.same_data import check_same_data
from training.benchmarks.schedule import BenchmarkPlan
from training.benchmarks.tables import markdown, summarise
from training.benchmarks.text import read_words
from training.captioners.command import reproduce_table3
from training.captioners.grid import NAME as TABLE3
from training.figure_tools import check_folder
from training.mnist import load_mnist
from training.run_folder import RunFolder, origin
from training.schedule import BROKE_OFF, Schedule

NAME = "reproduce"
_SCRIPT = Path(__file__).resolve()
_GPU_BYTES_PER_RUN = 3 << 30  # CUDA's context, a batch of 784 steps, an evaluation; an estimate
_RUNS_PER_CORE = 2  # on a GPU, where a core only launches


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(Options):
    seeds: int = option(3, "seeds of each method, counted from 0", within=AT_LEAST_ONE)
    epochs: int | None = option(
        None,
        "epochs of each run; default: the paper's, 600 and 200; of what is small its own",
        within=AT_LEAST_ONE,
    )
    only: tuple[str, ...] = option(
        (),
        "tasks of the exhibit, such as copying300 or pmnist; default: all of them",
        metavar="TASK",
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
    mnist: Path = option(Path("data/mnist"), "folder of MNIST", metavar="DIR")
    download: bool = option(False, "fetch MNIST into that folder")
    text: Path | None = option(None, "of language, the text file, in UTF-8", metavar="FILE")
    out: Path = option(
        Path("runs/reproduce"), "folder of runs, pages and pictures", metavar="FOLDER"
    )
    figures: tuple[Path, ...] = option(
        (),
        "NAME.json files of other machines or earlier calls, whose complete runs count here too",
        metavar="FILE",
    )
    report: bool = option(False, "train nothing, tell what is there")
    background: bool = option(
        False, "go on without the terminal, at the lowest priority, with a log in --out"
    )

    def contradictions(self) -> Iterable[str]:
        if self.report and self.background:
            yield "--report trains nothing, so it needs no --background; give one of them"


def build_parser() -> OneLineParser:
    """Return the parser of this script's command line."""
    parser = options_parser(
        ReproduceOptions,
        prog=f"{NAME}.py",
        description="Rerun a table or figure of the h-detach paper.",
    )
    parser.add_argument(
        "reproduction",
        choices=[*REPRODUCTIONS, TABLE3],
        help=f"what to rerun; the options of {TABLE3} are listed by {TABLE3} --help",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_program(f"{NAME}.py", lambda: reproduce(given))


def reproduce(argv: list[str]) -> int:
    """Train what is missing, and write the page of a reproduction."""
    if argv[:1] == [TABLE3]:
        return reproduce_table3(argv[1:], _SCRIPT)
    given = vars(build_parser().parse_args(argv))
    name = given.pop("reproduction")
    if name == TABLE3:
        raise OptionError(f"{TABLE3} stands first: {NAME}.py {TABLE3} --data DATA ...")
    options = ReproduceOptions.from_json(given)
    reproduction = restricted(REPRODUCTIONS[name], options.only)
    check_folder(options.out)
    runs = list(runs_of(reproduction, options.seeds, tuple(dict.fromkeys(options.lr))))
    plan = _plan(options, reproduction, runs)
    if not options.report:
        _check_epochs(plan, runs)
    check_same_data(plan, runs, _data_named(options))
    if options.background:
        run_in_background([sys.executable, str(_SCRIPT), *argv], options.out, name)
        return 0
    with RunFolder(options.out).locked():
        is_whole = True
        if not options.report:
            whole = f"{len(runs)} runs, {plan.jobs} at once, below {plan.out / 'runs'}"
            if plan.budget_seconds is not None:
                whole += f"; {duration(plan.budget_seconds)} of training for all of them together"
            print(f"{reproduction.title}: {whole}", flush=True)
            is_whole = Schedule(plan).carry_out(runs)
        _write_page(name, reproduction, runs, plan, argv)
    if not is_whole:
        print("stopped, and all trainings with it; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return BROKE_OFF if any(plan.failure(run) for run in runs) else 0


def _plan(
    options: ReproduceOptions, reproduction: Reproduction, runs: Sequence[Run]
) -> BenchmarkPlan:
    device = choose_device(options.device)
    machine = ("--device", str(device), "--threads", str(options.threads))
    if not options.report and any(run.setting.script == "sequential_mnist" for run in runs):
        load_mnist(options.mnist, download=options.download)  # says what is wrong, once
    of_text: tuple[str, ...] = ()
    if any(run.setting.script == "word_language_model" for run in runs):
        if options.text is None and not options.report:
            raise OptionError("--text is missing; give a text file in UTF-8, the longer the better")
        if options.text is not None:
            read_words(options.text)
            of_text = ("--text", str(options.text.resolve()))
    return BenchmarkPlan(
        out=options.out,
        jobs=min(options.jobs or _room(device, options.threads), len(runs)),
        epochs_of_all=options.epochs,
        delays=reproduction.delays,
        arguments={
            "copying": machine,
            "sequential_mnist": (*machine, "--mnist", str(options.mnist)),
            "word_language_model": (*machine, *of_text),
        },
        budget_seconds=None if options.budget is None else 60 * options.budget,
        made_elsewhere=read_figures(options.figures),
    )


def _data_named(options: ReproduceOptions) -> dict[str, dict[str, str]]:
    """Return by script the options that name its data, where they are given."""
    named = {}
    if options.text is not None:
        named["word_language_model"] = {"text": str(options.text.resolve())}
    if not options.report:
        named["sequential_mnist"] = {"mnist": str(options.mnist)}
    return named


def _check_epochs(plan: BenchmarkPlan, runs: Sequence[Run]) -> None:
    """Raise OptionError if a run was begun for other epochs, and followed them from the start."""
    for run in runs:
        folder, annealed = RunFolder(plan.folder(run)), dict(run.row.options).get("anneal_epochs")
        if not annealed or not folder.config.exists():
            continue
        begun_for = folder.read_description()["config"].get("epochs", plan.asked_epochs(run))
        if begun_for != plan.asked_epochs(run):
            raise OptionError(
                f"{folder.path} was begun with --epochs {begun_for} and detaches until {annealed} "
                f"before their end; give --epochs {begun_for} again, or another --out"
            )


def _room(device: torch.device, threads: int) -> int:
    """Return how many runs there is room for at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device.type != "cuda":
        return max(1, (cores or 1) // threads)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return max(1, min(free_bytes // _GPU_BYTES_PER_RUN, _RUNS_PER_CORE * (cores or 1)))


def _write_page(
    name: str, reproduction: Reproduction, runs: Sequence[Run], plan: BenchmarkPlan, argv: list[str]
) -> None:
    results = {run: plan.result(run) for run in runs}
    failures = {run: plan.failure(run) for run in runs}
    summaries = summarise(reproduction, results)
    asked = {run: plan.asked_epochs(run) for run in runs}
    made_by = {"command": " ".join(["python", f"training/{NAME}.py", *argv]), **origin()}
    draw(reproduction, summaries, results, plan.out / f"{name}.png")
    page = markdown(
        reproduction,
        summaries,
        results,
        asked=asked,
        failures=failures,
        origin=made_by,
        picture=f"{name}.png",
    )
    write_atomically(plan.out / f"{name}.md", page.encode())
    figures = {
        "exhibit": name,
        "title": reproduction.title,
        "origin": made_by,
        "findings": [summary.to_json() for summary in summaries],
        "runs": {
            run.name: {
                "epochs_asked": asked[run],
                "epochs_of_the_paper": run.setting.epochs if run.setting.is_papers else None,
                "failure": failures[run],
                **asdict(results[run]),
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
