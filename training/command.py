"""Command line of the training scripts: options, the run, and the exit status.

Options that choose a part, such as `--decoder` or `--model`, are read first, because the part's own
flags join the others. Bad input is one line and exit status 2, and leaves no half-written file.
"""

import argparse
import os
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from captioner.allocator import keep_freed_memory
from captioner.errors import OptionError
from captioner.flags import OneLineParser, add_flags
from captioner.options import check_changes, flag
from captioner.program import INTERRUPTED, run_program
from captioner.text import escaped
from training.composition import ComposedOptions
from training.distributed import Ranks
from training.run import Outcome, Run
from training.run_folder import RunFolder
from training.work import Work


class Configured(NamedTuple):
    """A run that is about to begin or go on."""

    config: Any
    data: Any  # what the work is made of, where it was read to configure the run
    name: str  # of its folder, if none was given


class Program(ABC):
    """A training script."""

    name: str  # of its file, such as copying.py
    description: str
    called: str = ""  # by the user, if not by its file
    examples: str = ""
    default_folder: str = "runs/NAME-TIME"
    config: type[ComposedOptions]
    trains_together: bool = False  # with other processes

    @abstractmethod
    def configure(self, given: Mapping[str, Any]) -> Configured:
        """Return a new run with these options."""

    def configure_again(self, config: Any) -> Configured:
        """Return a run that goes on with this configuration."""
        return Configured(config, None, "")

    @abstractmethod
    def work(self, configured: Configured, folder: RunFolder, ranks: Ranks) -> Work:
        """Return what the run trains; its folder is locked by now."""

    @abstractmethod
    def report(self, run: Run, outcome: Outcome) -> None:
        """Say how a run ended that was not interrupted, after what is left to do.

        Of several processes the first one does.
        """


class Arguments(NamedTuple):
    given: dict[str, Any]  # options of the configuration that stood on the command line
    out: Path | None
    resume: RunFolder | None
    stored: dict[str, Any]  # options of the run to be resumed


def train(program: Program, argv: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    keep_freed_memory()
    words = sys.argv[1:] if argv is None else argv
    return run_program(
        program.called or program.name,
        lambda: _train(program, words),
        when_interrupted="interrupted; what was saved before is whole",
    )


def _train(program: Program, words: Sequence[str]) -> int:
    with Ranks.joined() as ranks, ranks.as_one():
        if ranks.size > 1 and not program.trains_together:
            raise OptionError(
                f"{program.name} trains in one process; start it without torchrun, or with "
                "--nproc-per-node 1"
            )
        with ranks.first_before_others():  # reading a run may mend it
            arguments = going_on(program, parse_arguments(program, words))
        return _run(program, arguments, ranks)


def build_parser(program: Program, chosen: Mapping[str, str] | None = None) -> OneLineParser:
    """Return the parser for these parts; options that were not given are absent from its result.

    Raises:
        OptionError: there is no part of such a name.
    """
    config = program.config
    others = " and ".join(f"{flag(choice)} NAME" for choice in config.choices())
    parser = OneLineParser(
        prog=program.called or program.name,
        description=program.description,
        epilog=f"{program.examples}The flags of other parts are listed by {others} with --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_flags(parser, config)
    for choice, name in config.chosen(chosen or {}).items():
        group = parser.add_argument_group(f"of {flag(choice)} {name}")
        add_flags(group, config.choices()[choice][name])
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FOLDER",
        help=f"folder of the run; default: {program.default_folder}",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        metavar="RUN",
        help="go on with the run in this folder, exactly where its last/ stands",
    )
    return parser


def parse_arguments(program: Program, argv: Sequence[str]) -> Arguments:
    """Return what stood on the command line.

    Raises:
        OptionError: a value is out of range, or the options contradict each other.
        TrainingError: there is no run to resume.
    """
    config = program.config
    early = OneLineParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for choice in config.choices():
        early.add_argument(flag(choice))
    early.add_argument("--resume", type=Path, default=None)
    choosing = vars(early.parse_known_args(argv)[0])
    resume, stored = choosing.pop("resume"), {}
    if resume is not None:
        folder = RunFolder.existing(resume)
        stored = choosing = _stored(program, folder)
    parser = build_parser(program, choosing)
    unused = config.sizes_of_other_parts(choosing)
    for name in unused:
        parser.add_argument(flag(name), type=int, help=argparse.SUPPRESS)
    known, unknown = parser.parse_known_args(argv)
    config.refuse_other_parts(choosing, unknown)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    given = vars(known)
    for name in unused:
        if given.pop(name, None) is not None:
            print(f"{flag(name)} is left out: no part of this run has it", file=sys.stderr)
    out = given.pop("out")
    if given.pop("resume") is None:
        return Arguments(given, out, None, {})
    if out is not None:
        raise OptionError("--out and --resume exclude each other; a resumed run keeps its folder")
    check_changes(given, config.composed(stored))
    return Arguments(given, None, folder, stored)


def _stored(program: Program, folder: RunFolder) -> dict[str, Any]:
    """Return the options of the run to be resumed, which this program began."""
    description = folder.read_description()
    began = description.get("script", program.name)
    if began != program.name:
        raise OptionError(
            f"--resume {folder.path}: that run was begun by {began}, not by {program.name}; "
            "go on with it by the program that began it"
        )
    return dict(description["config"])


def going_on(program: Program, arguments: Arguments) -> Arguments:
    """Return what goes on with the run that torchrun began by the same command, if it did.

    torchrun starts the same command anew when a process was lost, and so does who starts a lost job
    again; without torchrun an `--out` that holds a run is refused.

    Raises:
        OptionError: torchrun is to restart processes that could not find their run.
    """
    out = arguments.out
    if "TORCHELASTIC_RUN_ID" not in os.environ or arguments.resume is not None:
        return arguments
    if out is None:
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
            raise OptionError(
                "torchrun --max-restarts goes on with a run only where it finds it again; name its "
                "folder with --out or --resume"
            )
        return arguments
    if not (out / "config.json").is_file():
        return arguments
    folder = RunFolder.existing(out)
    if folder.read_description().get("command") != sys.argv:
        return arguments
    return Arguments({}, None, folder, _stored(program, folder))


def _run(program: Program, arguments: Arguments, ranks: Ranks) -> int:
    """Begin or resume a run, and report how it ended."""
    if arguments.resume is not None:
        config = program.config.from_json({**arguments.stored, **arguments.given})
        configured, folder = program.configure_again(config), arguments.resume
    else:
        if arguments.out is not None and ranks.is_first:
            RunFolder.new(arguments.out, "")  # refused before any data is read
        configured = program.configure(arguments.given)
        if ranks.is_first:
            folder = RunFolder.new(arguments.out, configured.name)
        folder = RunFolder(ranks.share(folder.path if ranks.is_first else Path()))
    config = configured.config
    ranks.device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with folder.locked() if ranks.is_first else nullcontext(), ExitStack() as open_parts:
        say(f"run: {folder.path}" + (" (resumed)" if arguments.resume else ""))
        say(_listed(config))
        planned = list(config.planned_by_epochs())
        if (
            planned
            and (begun_for := arguments.stored.get("epochs", config.epochs)) != config.epochs
        ):
            say(
                f"note: {' and '.join(planned)} followed {begun_for} epochs so far and follows "
                f"{config.epochs} from here on; a run begun with --epochs {config.epochs} ends "
                "otherwise"
            )
        if ranks.size > 1:
            say(f"processes: {ranks.size}, which share out each batch")
        work = open_parts.enter_context(closing(program.work(configured, folder, ranks)))
        facts = {"script": program.name, "command": sys.argv, **work.facts}
        run = open_parts.enter_context(closing(Run.open(work, folder, config, facts, say, ranks)))
        if run.state.step:
            say(f"going on after {work.step_name} {run.state.step:,}")
        elif arguments.resume:
            say("nothing was saved yet: beginning anew")
        outcome = run.train()
        if outcome is Outcome.INTERRUPTED:
            done = f"{work.step_name} {run.state.step:,}"
            say(f"stopped after {done}, all of it saved; go on with:")
            command = _command(program, ranks)
            say(f"  {command} --resume {folder.path}")
            return INTERRUPTED
        if ranks.is_first:
            program.report(run, outcome)
    return 0


def _command(program: Program, ranks: Ranks) -> str:
    """Return how the user starts the program; `--` ends torchrun's own options."""
    if ranks.size == 1:
        return program.called or f"python training/{program.name}"
    words = f"--no-python -- {program.called}" if program.called else f"-- training/{program.name}"
    return f"torchrun --nproc-per-node {ranks.size} {words}"


def say(line: str) -> None:
    print("\n".join(map(escaped, line.split("\n"))), flush=True)


def _listed(config: ComposedOptions) -> str:
    def shown(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    settings = ", ".join(f"{name} {shown(value)}" for name, value in config.to_json().items())
    return textwrap.fill(
        "settings: " + settings, 100, subsequent_indent="  ", break_on_hyphens=False
    )
