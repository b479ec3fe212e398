"""Runs of Table 3 that a command line asks for, with every option of each checked."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from captioner.decoders import DECODERS
from captioner.devices import choose_device
from captioner.errors import OptionError
from captioner.flags import OneLineParser, options_parser
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, PROBABILITY, Options, flag, option
from training.captioners.plan import CaptionerPlan
from training.captioners.runs import CLIPPED, UNCLIPPED, CaptionerRun, options_for, runs_of
from training.command import parse_arguments
from training.config import TrainingConfig
from training.figure_tools import check_folder
from training.recipes import check_with_any_recipe, with_recipe
from training.run_folder import RunFolder
from training.run_state import read_fingerprint
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
    without_cell: tuple[str, ...]  # decoders that have nothing to detach, so p = 0 alone


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


def read_grid(argv: Sequence[str]) -> Grid:
    """Return the runs that the command line asks for, all of their options checked.

    Raises:
        CaptionerError: an option, the data or the device is wrong.
    """
    known, others = build_parser().parse_known_args(list(argv))
    options = Table3Options.from_json(vars(known))
    check_folder(options.out)
    if not any(word.split("=")[0] == "--data" for word in others):
        raise OptionError(
            "--data is missing; give a data set, such as flickr8k/ or coco, or shapes, the sample"
        )
    decoders = tuple(dict.fromkeys(options.decoders or DECODERS))
    program = TrainCoco()
    for word in others:
        if word.split("=")[0] in map(flag, _OF_A_RUN):
            raise OptionError(
                f"{word} is not for all runs of {NAME}; see reproduce.py {NAME} --help for what "
                "there is in its place"
            )
    training = _with_defaults(others)
    without_cell = tuple(one for one in decoders if not _has_cell_state(program, one, training))
    probabilities = tuple(dict.fromkeys(float(f"{p:g}") for p in options.p))  # as runs are named
    shares = {
        one: [p for p in probabilities if p == 0 or one not in without_cell] for one in decoders
    }
    runs = list(runs_of(shares, options.seeds, tuple(dict.fromkeys(options.clipping))))
    if not runs:
        raise OptionError(
            f"{' '.join(without_cell)} has no cell state, so nothing can be detached and --p is 0 "
            "alone; add 0 to --p, or other --decoders"
        )
    given = {
        run: parse_arguments(program, [*options_for(run.decoder, training), *run.arguments]).given
        for run in runs
    }
    for run in runs:
        if run.seed == 0:
            check_with_any_recipe(given[run], TrainingConfig.from_json)
    for word in others:
        if word.startswith("--") and all(word not in options_for(one, others) for one in decoders):
            raise OptionError(f"{word} is an option of none of {', '.join(decoders)}; leave it out")
    configured = program.configure(given[runs[0]])
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
    recipe, sha256 = configured.config.recipe, dataset.sha256()
    for run in runs:
        _check_same_data(plan.folder(run), sha256, dataset.paths)
        own = {**given[run], "recipe": recipe, "epochs": options.epochs}
        _check_trained_so(plan.folder(run), with_recipe(own, dataset.name))
    return Grid(options, runs, plan, dataset.name, without_cell)


def _has_cell_state(program: TrainCoco, decoder: str, training: Sequence[str]) -> bool:
    words = [*options_for(decoder, training), "--decoder", decoder]
    given = parse_arguments(program, words).given
    options = DECODERS[decoder].Options
    own = {one.name: given[one.name] for one in fields(options) if one.name in given}
    return options.from_json(own).has_cell_state


def _check_same_data(path: Path, sha256: str | list[str], paths: str) -> None:
    """Raise OptionError if a run is there that was trained on other captions than these."""
    there = read_fingerprint(RunFolder(path).last) or {}
    if there.get("sha256", sha256) != sha256:
        raise OptionError(
            f"{path} was trained on other data than {paths}; give the same --data as before, or "
            "another --out"
        )


def _check_trained_so(path: Path, wanted: Mapping[str, Any]) -> None:
    """Raise OptionError if a run is there that was begun with other options than these."""
    folder = RunFolder(path)
    if not folder.config.exists():
        return
    # A run may be resumed for more epochs, but its learning rate followed those it was begun with.
    fixed = [
        item.name
        for item in fields(TrainingConfig.composed(wanted))
        if item.name == "epochs" or not item.metadata["changeable"]
    ]
    there = folder.read_description()["config"]
    effective = TrainingConfig.from_json(wanted).to_json()
    for name in fixed:
        now = effective[name]
        now = list(now) if isinstance(now, tuple) else now
        if there.get(name, now) != now:
            raise OptionError(
                f"{path} was trained with {flag(name)} {there[name]}, not {now}; give the same "
                "options as before, or another --out"
            )


def _with_defaults(others: Sequence[str]) -> list[str]:
    """Return the options of all trainings: those given, and what every run needs beside them.

    The recipes' running average of the weights, which the paper has not, would show the first
    epochs as it makes them, whatever the training does.
    """
    defaults = ["--beam-size", "1", "--average-decay", "0", "--gradient-lags", *_LAGS]
    if not any(word.split("=")[0] == "--fine-tune-encoder" for word in others):
        defaults += ["--fine-tune-encoder", "none"]
    return [*defaults, *others]


def _room(device: str, threads: int) -> int:
    """Return how many runs there is room for at once."""
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // threads)
