"""Benchmark of captioning a data set, against the library on the same cores, and in how much
memory.

    python scripts/bench_dataset.py --data data/flickr8k/images        # about 2 minutes
    python scripts/bench_dataset.py --memory 1000 100000 \\
        --data data/flickr8k/images                                    # about 3 minutes

The rates are of the model that comes with captioner. Contestants take turns, each in processes of
its own that are kept on so many cores: `captions` of the library, and `captioner caption-dataset`
by each engine. Of each turn there are the seconds from the start of the program to the first
captions, the steady rate after it, and the rate of the whole, from the start to the exit.

Memory is what the job's processes hold together, shared pages counted once, and is measured with
links to a few small photographs and a tiny model: what grows with the number of photographs would
grow with any. Figures go to docs/results/scale.json, and the documents are written anew from it.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from scale import RESULTS, ROOT, keep, load_of_others
from scale.report import write_documents
from scale.tiny_model import tiny_model

from captioner.data.image_formats import is_image_file
from captioner.errors import DataError, ToolError
from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, Options, at_least, option
from captioner.program import run_program

OF_LIBRARY = """
import json, sys, time
import captioner
paths, cores = json.loads(sys.stdin.read()), int(sys.argv[1])
model = captioner.load(threads=cores)
model.captions(paths[:16], num_captions=1)
first = time.monotonic()
model.captions(paths[16:], num_captions=1)
print(first, (len(paths) - 16) / (time.monotonic() - first))
"""
LOOK_EVERY = 0.5  # seconds
LINKED = 100  # photographs, the smallest, that the measurement of memory has links to


class Turn(NamedTuple):
    """One run of a contestant."""

    start: float  # seconds to the first captions
    steady: float  # photographs a second, after the start
    whole: float  # photographs a second, from the program's start to its exit


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    data: Path = option(
        ROOT.parent / "shared" / "data" / "flickr8k" / "images", "folder of photographs"
    )
    photographs: int = option(
        640, "of each turn", within=at_least(32, "the first 16 are the start")
    )
    rounds: int = option(2, "turns of each contestant", within=AT_LEAST_ONE)
    cores: tuple[int, ...] = option((1, 2), "that the contestants are kept on, in turn")
    engines: tuple[str, ...] = option(
        ("local", "ray"),
        "of caption-dataset; ray on the most cores alone",
        choices=("local", "ray"),
    )
    memory: tuple[int, ...] = option((), "measure memory instead, with so many photographs")
    out: Path = option(RESULTS, "folder of scale.json and scale.md", metavar="FOLDER")


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = options_parser(BenchOptions, prog="bench_dataset.py", description=__doc__)
    options = BenchOptions.from_json(vars(parser.parse_args(argv)))
    if not options.data.is_dir():
        raise DataError(f"{options.data}: there is no such folder; name one with --data")
    files = sorted(path for path in options.data.iterdir() if is_image_file(path))
    if not files:
        raise DataError(f"{options.data} holds no photograph")
    command = f"python scripts/{Path(__file__).name} {' '.join(argv or sys.argv[1:])}".strip()
    load = load_of_others()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        if options.memory:
            found = _memory(files, options, Path(folder))
            keep(options.out, "memory", command, found, load)
        else:
            found = _rates(files, options, Path(folder))
            keep(options.out, "rates", command, found, load)
    write_documents(options.out)
    return None


def _rates(files: list[Path], options: BenchOptions, folder: Path) -> dict[str, Any]:
    """Return photographs a second by cores and contestant, the median of all turns."""
    # A list's paths are relative to the list.
    paths = [str(file.absolute()) for file in islice(cycle(files), options.photographs)]
    listed = folder / "photographs.txt"
    listed.write_text("\n".join(paths))
    size = statistics.mean(Path(one).stat().st_size for one in paths)
    found: dict[str, Any] = {"photographs": len(paths), "bytes_each": round(size)}
    for cores in options.cores:
        turns: dict[str, list[Turn]] = {"library": []}
        work: dict[str, Any] = {}
        for _ in range(options.rounds):
            turns["library"].append(_library(paths, cores))
            for engine in options.engines:
                if engine == "ray" and cores != max(options.cores):
                    continue
                job = _job(listed, folder / "captions", cores, engine, options.photographs)
                turns.setdefault(engine, []).append(_turn_of(job, options.photographs))
                work[engine] = job["work_seconds"]
        medians = {
            name: Turn(*map(statistics.median, zip(*every, strict=True)))
            for name, every in turns.items()
        }
        found[str(cores)] = {
            "rates": {name: one.steady for name, one in medians.items()},
            "whole": {name: one.whole for name, one in medians.items()},
            "seconds_to_first": {name: one.start for name, one in medians.items()},
            "turns": {name: [one._asdict() for one in every] for name, every in turns.items()},
            "work_seconds": work,
        }
        for name, one in medians.items():
            shares = [mine / of / 0.01 for mine, of in zip(one, medians["library"], strict=True)]
            print(
                f"{cores} cores: {name}: first captions after {one.start:.1f} s; then "
                f"{one.steady:.1f} photographs a second, {shares[1]:.0f}% of the library; as a "
                f"whole {one.whole:.1f}, {shares[2]:.0f}%",
                flush=True,
            )
    return found


def _turn_of(job: dict[str, Any], photographs: int) -> Turn:
    """Return what a job's summary says, with how long its program ran."""
    seconds = job["program_seconds"]
    after_first = job["seconds_now"] - job["seconds_to_first"]
    steady = job["photographs_per_second"]
    return Turn(seconds - after_first, steady, photographs / seconds)


def _library(paths: list[str], cores: int) -> Turn:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", OF_LIBRARY, str(cores)],
        input=json.dumps(paths),
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=_kept_on(cores),
    )
    seconds = time.monotonic() - began
    first, steady = map(float, done.stdout.split())  # the clock is the same in all processes
    return Turn(first - began, steady, len(paths) / seconds)


def _job(
    source: Path, out: Path, cores: int, engine: str, photographs: int, *more: str
) -> dict[str, Any]:
    """Caption a source by the command; return its summary and the program's seconds."""
    began = time.monotonic()
    with _running(source, out, cores, engine, *more) as job:
        job.wait()
    seconds = time.monotonic() - began
    summary: dict[str, Any] = json.loads((out / "_summary.json").read_text())
    summary["program_seconds"] = seconds
    if summary["photographs_now"] != photographs:
        raise ToolError(f"{summary['photographs_now']} of {photographs} photographs were captioned")
    if summary["failures"]:
        raise ToolError(f"photographs failed: {summary['failures']}; give a folder of sound ones")
    shutil.rmtree(out)
    return summary


@contextmanager
def _running(
    source: Path, out: Path, cores: int, engine: str, *more: str
) -> Iterator[subprocess.Popen[bytes]]:
    words = ["--out", str(out), "--engine", engine, "--workers", str(cores), *more]
    job = subprocess.Popen(
        [sys.executable, "-m", "captioner", "caption-dataset", str(source), *words],
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_kept_on(cores),
    )
    try:
        yield job
    finally:
        job.terminate()
        job.wait()


def _memory(files: list[Path], options: BenchOptions, folder: Path) -> dict[str, Any]:
    """Return the most memory of jobs of so many photographs, in MiB."""
    model = tiny_model(folder / "tiny")
    small = sorted(files, key=lambda file: file.stat().st_size)[:LINKED]
    found: dict[str, Any] = {}
    cores = max(options.cores)
    for count in options.memory:
        photographs, out = folder / f"photographs-{count}", folder / "captions"
        for number, file in enumerate(islice(cycle(small), count)):
            link = photographs / f"{number // 1000:04d}" / f"{number:07d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.absolute())
        began, levels = time.monotonic(), []
        with _running(photographs, out, cores, "local", "--checkpoint", str(model)) as job:
            while job.poll() is None:
                levels.append(_held(job.pid))
                time.sleep(LOOK_EVERY)
        seconds = time.monotonic() - began
        summary = json.loads((out / "_summary.json").read_text())
        if summary["photographs"] != count:
            raise ToolError(f"{summary['photographs']} of {count} photographs were captioned")
        shutil.rmtree(out)
        most = max(levels)
        found[str(count)] = {"most_mib": round(most, 1), "seconds": round(seconds, 1)}
        print(f"{count:,} photographs: at most {most:.0f} MiB, {seconds:.0f} s", flush=True)
    return found


def _held(pid: int) -> float:
    """Return what a process and all below it hold, in MiB; what they share counts once."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                total += one.memory_full_info().pss
    return total / (1 << 20)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}


def _kept_on(cores: int) -> Any:
    return lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


if __name__ == "__main__":
    sys.exit(run_program("bench_dataset", main))
