"""The command line of the benchmarks, and what becomes of it: a run, its report, an exit status.

`--model` is read first, for the method's own flags join those of the task and the loop. Bad
input is one line and exit status 2, and leaves nothing half-written.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from captioner.allocator import keep_freed_memory
from captioner.devices import choose_device
from captioner.errors import CaptionerError, OptionError
from captioner.options import OneLineParser, add_flags, check_changes, flag
from training.benchmarks.config import BenchmarkConfig, Experiment
from training.benchmarks.loop import Loop, Outcome
from training.benchmarks.task import Figures, Task
from training.methods import load_method, method_names
from training.run_folder import RunFolder

_BAD_INPUT, _INTERRUPTED = 2, 130  # exit statuses


@dataclass(frozen=True, kw_only=True)
class Script:
    """A program that trains on one task."""

    name: str  # such as copying.py
    description: str
    config: type[BenchmarkConfig]
    task: Callable[[Any, torch.device], Task]
    run_name: Callable[[Any], str]  # of a configuration, for the default folder


def run_script(script: Script, words: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    keep_freed_memory()
    torch.set_flush_denormal(True)  # threads inherit it from here; gradients fade in long sequences
    try:
        return _run(script, sys.argv[1:] if words is None else words)
    except CaptionerError as problem:
        print(f"{script.name}: {problem}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(f"{script.name}: interrupted; what was trained before is saved", file=sys.stderr)
        return _INTERRUPTED


def build_parser(script: Script, model: str = "lstm") -> OneLineParser:
    """Return the parser for one method; options that were not given are absent from its result.

    Raises:
        OptionError: there is no such method.
    """
    parser = OneLineParser(
        prog=script.name,
        description=script.description,
        epilog="The flags of another method are listed by --model NAME --help.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_flags(parser, script.config)
    add_flags(parser.add_argument_group(f"of --model {model}"), load_method(model).options)
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder of the run; default: runs/NAME-TIME",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with the run in this folder, exactly where its last/ stands",
    )
    return parser


def _run(script: Script, words: Sequence[str]) -> int:
    early = OneLineParser(add_help=False, allow_abbrev=False)
    early.add_argument("--model", default=None)
    early.add_argument("--resume", type=Path, default=None)
    asked, _ = early.parse_known_args(words)
    if asked.resume is not None:
        folder = RunFolder.existing(asked.resume)
        stored = _stored(script, folder)
        given = _given(script, stored.get("model", "lstm"), words)
        if given.pop("out") is not None:
            raise OptionError(
                "--out and --resume exclude each other; a resumed run keeps its folder"
            )
        model_options = load_method(stored.get("model", "lstm")).options
        check_changes(given, script.config, model_options)
        experiment = Experiment.from_json({**stored, **given}, script.config)
    else:
        given = _given(script, asked.model or "lstm", words)
        out = given.pop("out")
        experiment = Experiment.from_json(given, script.config)
        folder = RunFolder.new(out, script.run_name(experiment))
    return _train(script, experiment, folder, is_resumed=asked.resume is not None)


def _given(script: Script, model: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the options that were given, and `out`."""
    parser = build_parser(script, model)
    known, unknown = parser.parse_known_args(words)
    for word in unknown:
        for other in method_names():
            names = {flag(item.name) for item in fields(load_method(other).options)}
            name = word.split("=")[0]
            if other != model and (name in names or name.replace("--no-", "--") in names):
                raise OptionError(
                    f"{name} is an option of --model {other}, and the model is {model}; leave it "
                    f"out, or give --model {other}"
                )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    values = vars(known)
    del values["resume"]
    return values


def _stored(script: Script, folder: RunFolder) -> Mapping[str, Any]:
    """Return the options of the run to be resumed, which this script began."""
    description = folder.read_description()
    maker = description.get("script", "another program")
    if maker != script.name:
        raise OptionError(
            f"--resume {folder.path}: that run was begun by {maker}, not by {script.name}; "
            "go on with it by the program that began it"
        )
    return dict(description["config"])


def _train(script: Script, experiment: Experiment, folder: RunFolder, *, is_resumed: bool) -> int:
    config = experiment.config
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    task = script.task(config, device)
    loop = Loop(task, experiment, device, folder, _say)
    with folder.locked():
        if folder.last.exists():
            loop.resume()
        _say(f"run: {folder.path}" + (" (resumed)" if is_resumed else ""))
        _say(_listed(experiment))
        folder.write_config(
            experiment,
            {
                "script": script.name,
                "command": sys.argv,
                "threads": torch.get_num_threads(),
            },
        )
        if loop.standing.update:
            _say(f"going on after update {loop.standing.update:,}")
        elif is_resumed:
            _say("nothing was saved yet: beginning anew")
        outcome = loop.run()
        if outcome is Outcome.INTERRUPTED:
            _say(f"stopped after update {loop.standing.update:,}, all of it saved; go on with:")
            _say(f"  python training/{script.name} --resume {folder.path}")
            return _INTERRUPTED
        _report(outcome, loop, task, loop.test(outcome), folder)
    return 0


def _report(
    outcome: Outcome, loop: Loop, task: Task, tests: Mapping[str, Figures], folder: RunFolder
) -> None:
    standing = loop.standing
    epochs, best = (
        count / task.updates_per_epoch for count in (standing.update, standing.best_update)
    )
    _say(f"training is over after {epochs:g} epochs: {outcome.value}")
    rows = {f"best validation, after epoch {best:g}": standing.best, **tests}
    for name, figures in rows.items():
        listed = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        _say(f"{name}: {listed}")
    _say(f"everything lies in {folder.path}: result.json, metrics.jsonl, curves.png, config.json,")
    _say("  events/ (TensorBoard), best/ and last/ (checkpoints)")


def _listed(experiment: Experiment) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in experiment.to_json().items())
    return textwrap.fill(
        "settings: " + settings, 100, subsequent_indent="  ", break_on_hyphens=False
    )


def _say(line: str) -> None:
    print(line, flush=True)
