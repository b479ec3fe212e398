"""Parts of the benchmarks: options that all have, contestants that take turns, and the record."""

import multiprocessing
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from captioner.files import write_json
from captioner.options import AT_LEAST_ONE, Options, option
from training.run_folder import origin

BUSY = 0.1  # share of the processor that others may use before ratios are worth little


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    rounds: int = option(7, "turns of each contestant", within=AT_LEAST_ONE)
    threads: int = option(2, "of the CPU", within=AT_LEAST_ONE)
    json: Path | None = option(None, "write the figures here as well", metavar="FILE")


def load_of_others() -> float:
    """Return the share of the processor that is in use while this program sleeps."""
    return psutil.cpu_percent(interval=0.5) / 100.0


def record(options: BenchOptions, load_before: float, figures: Mapping[str, Any]) -> None:
    """Warn of a busy machine, and write the figures where the options say."""
    load = {"before": load_before, "after": load_of_others()}
    if max(load.values()) > BUSY:
        print(f"note: other programs use {max(load.values()):.0%} of the processor; ", end="")
        print("ratios from a busy machine are worth little")
    if options.json is None:
        return
    facts = {**machine(), "load_of_others": load}
    settings = {key: str(value) for key, value in asdict(options).items()}
    write_json(options.json, {"settings": settings, "machine": facts, "figures": figures})
    print(f"written: {options.json}")


def machine() -> dict[str, str]:
    """Return the commit, the versions, and the processor's name."""
    name = platform.processor()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {**origin(), "model": name}


class Contestant(NamedTuple):
    worker: Connection
    question: str  # that the worker answers with the time of one turn
    rounds: int


def take_turns(contestants: Mapping[str, Contestant]) -> dict[str, list[Any]]:
    """Return the answers of each contestant, but for a first one that does not count.

    The workers are told that it is over.
    """
    answers: dict[str, list[Any]] = {name: [] for name in contestants}
    for number in range(1 + max(one.rounds for one in contestants.values())):
        for name, one in contestants.items():
            if number <= one.rounds:
                one.worker.send(one.question)
                answers[name].append(one.worker.recv())
    for worker in {one.worker for one in contestants.values()}:
        worker.send(None)
    return {name: every[1:] for name, every in answers.items()}


def in_child(work: Callable[..., None], *arguments: Any, start: str = "fork") -> Connection:
    """Start `work` in a process of its own.

    A "fork" of this process must not find that it ran anything in parallel; "spawn" loads all
    anew.
    """
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context(start)
    context.Process(target=work, args=(theirs, *arguments), daemon=True).start()  # type: ignore[attr-defined]
    theirs.close()  # so that a child that died is the end of the file, and not waited for
    return ours
