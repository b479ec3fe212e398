"""Time an epoch of copying and of pixel MNIST: this project's loop against the authors' kind of it.

"ours" is the loop of `training/benchmarks`, with all it does: batches, clipping, Adam, the log.
"authors' loop" is a stand-in written after their description: an LSTM cell of their own, one step
at a time, `.detach()` where a number drawn for the step says so, the output layer at every step
(of MNIST too, where the last one is used), and the loss added up step by step (of copying). It gets
its batches ready-made from our task. "As published" does not flush denormal numbers; the row
"flushed" does, in all threads. Each contestant has a process of its own; they take turns.

An epoch is 1,000 updates of copying or 500 of MNIST, and a validation. Only `--updates` are timed,
from the initial weights, and multiplied; so are the authors' batches of MNIST's validation.

    python scripts/bench_training_loops.py --mnist data/mnist --json bench.json
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from bench_lstm import BUSY, in_child, load_of_others
from torch import Tensor, nn

from captioner.files import write_json
from captioner.options import AT_LEAST_ONE, PROBABILITY, Options, option, options_parser
from captioner.program import run_program
from training.benchmarks.benchmark import Benchmark
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.copying import CLASSES, CopyingConfig, CopyingTask
from training.benchmarks.pixels import PixelsConfig, PixelsTask
from training.benchmarks.task import Batch
from training.mnist import load_mnist
from training.run import Run
from training.run_folder import RunFolder, read_metrics

OURS, PUBLISHED, FLUSHED = "ours", "authors' loop, as published", "authors' loop, flushed"
TARGETS = {"copying": 3.0, "mnist": 10.0}  # times the authors' loop as published
UPDATES = {"copying": 1000, "mnist": 500}  # of an epoch
CPU = torch.device("cpu")
VALIDATION_BATCHES = 100  # of the authors' pixel MNIST
Times = tuple[float, float]  # seconds of the updates, and of a validation


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    tasks: tuple[str, ...] = option(tuple(TARGETS), "which to time", choices=tuple(TARGETS))
    p: float = option(0.25, "probability to detach", within=PROBABILITY)
    delay: int = option(100, "of copying", within=AT_LEAST_ONE)
    updates: int = option(20, "timed in a round", within=AT_LEAST_ONE)
    rounds: int = option(5, "turns of each contestant", within=AT_LEAST_ONE)
    threads: int = option(2, "of the CPU", within=AT_LEAST_ONE)
    mnist: Path = option(Path("data/mnist"), "folder of MNIST", metavar="DIR")
    json: Path | None = option(None, "write the figures here as well", metavar="FILE")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(BenchOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_training_loops.py",
        lambda: bench(BenchOptions.from_json(vars(parser.parse_args(argv)))),
    )


def bench(options: BenchOptions) -> None:
    if "mnist" in options.tasks:
        load_mnist(options.mnist)
    before = load_of_others()
    figures = {task: compare(task, options) for task in options.tasks}
    load = {"before": before, "after": load_of_others()}
    if max(load.values()) > BUSY:
        print(f"note: other programs use {max(load.values()):.0%} of the processor; ratios")
        print("from a busy machine are worth little")
    if options.json:
        settings = {key: str(value) for key, value in asdict(options).items()}
        write_json(
            options.json,
            {"settings": settings, "machine": {**machine(), "load": load}, "figures": figures},
        )


def machine() -> dict[str, Any]:
    name = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def compare(task: str, options: BenchOptions) -> dict[str, Any]:
    """Let the contestants take turns at one task, and say what an epoch takes."""
    workers = {
        name: in_child(serve, task, name, options, start="spawn")
        for name in (PUBLISHED, FLUSHED, OURS)
    }
    times: dict[str, list[Times]] = {name: [] for name in workers}
    for number in range(-1, options.rounds):  # the first is not counted
        for name, worker in workers.items():
            worker.send("go")
            taken = worker.recv()
            if number >= 0:
                times[name].append(taken)
    for worker in workers.values():
        worker.send(None)
    scale = UPDATES[task] / options.updates
    figures: dict[str, Any] = {}
    for name, pairs in times.items():
        updates = [scale * seconds for seconds, _ in pairs]
        epochs = [scale * seconds + validation for seconds, validation in pairs]
        figures[name] = {
            "updates_seconds": statistics.median(updates),
            "epoch_seconds": statistics.median(epochs),
            "all_updates_seconds": updates,
            "all_epoch_seconds": epochs,
        }
    report(task, figures, options)
    return figures


def report(task: str, figures: dict[str, Any], options: BenchOptions) -> None:
    print(f"\n{task}, p = {options.p:g}: seconds for {UPDATES[task]} updates, of which")
    print(f"{options.updates} were timed, and for an epoch with its validation; medians")
    ours = figures[OURS]
    print(f"{'':<30}{'updates':>9}{'min':>9}{'max':>9}{'ratio':>8}{'epoch':>9}{'ratio':>8}")
    for name, row in figures.items():
        every = row["all_updates_seconds"]
        row["updates_ratio"] = row["updates_seconds"] / ours["updates_seconds"]
        row["epoch_ratio"] = row["epoch_seconds"] / ours["epoch_seconds"]
        print(
            f"{name:<30}{row['updates_seconds']:>9.1f}{min(every):>9.1f}{max(every):>9.1f}"
            f"{row['updates_ratio']:>7.1f}x{row['epoch_seconds']:>9.1f}{row['epoch_ratio']:>7.1f}x"
        )
    print(f"the aim is {TARGETS[task]:g} times as quick as the authors' loop as published")


def serve(connection: Connection, task: str, name: str, options: BenchOptions) -> None:
    """Answer every request with the times of one round, until nothing is asked."""
    torch.set_flush_denormal(name != PUBLISHED)  # before anything runs in parallel
    torch.set_num_threads(options.threads)
    run = contestant(task, name, options)
    while connection.recv() is not None:
        connection.send(run())


def contestant(task: str, name: str, options: BenchOptions) -> Callable[[], Times]:
    asked = {"p": options.p, "updates": options.updates, "epochs": 1}
    if task == "copying":
        config = CopyingConfig.from_json({**asked, "delay": options.delay})
        copying = CopyingTask(config, CPU)
        if name == OURS:
            return partial(time_ours, copying, config)
        return partial(time_authors_copying, copying, options)
    pixels_config = PixelsConfig.from_json({**asked, "mnist": str(options.mnist)})
    pixels = PixelsTask(pixels_config, CPU)
    if name == OURS:
        return partial(time_ours, pixels, pixels_config)
    return partial(time_authors_mnist, pixels, options)


def time_ours(task: CopyingTask | PixelsTask, config: BenchmarkConfig) -> Times:
    """Run one epoch of the real loop, and read from its log what took how long."""
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as nowhere:
        folder = RunFolder(Path(place))
        with contextlib.redirect_stderr(nowhere):  # the progress
            work = Benchmark(task, config, CPU)
            with contextlib.closing(Run.open(work, folder, config, {}, lambda _: None)) as run:
                run.train()
        lines = {line["kind"]: line["seconds"] for line in read_metrics(folder)}
    return lines["train"], lines["validation"] - lines["train"]


class AuthorsNet(nn.Module):
    """The authors' cell and output layer, for one step."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Linear(inputs, 4 * hidden)
        self.from_hidden = nn.Linear(hidden, 4 * hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates = self.from_input(x) + self.from_hidden(h)
        i, f, o = gates[:, : 3 * self.hidden].sigmoid().chunk(3, dim=1)
        c = c * f + i * gates[:, 3 * self.hidden :].tanh()
        h = o * c.tanh()
        return self.output(h), h, c

    def start(self, rows: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(rows, self.hidden), torch.zeros(rows, self.hidden)


def authors_loss(net: AuthorsNet, batch: Batch, p: float, at_every_step: bool) -> Tensor:
    """Return the loss of a batch, computed step by step."""
    inputs, targets = batch
    h, c = net.start(inputs.shape[1])
    loss = torch.zeros(())
    for step, now in enumerate(inputs):
        if p > 0 and torch.rand(()).item() <= p:
            h = h.detach()
        scores, h, c = net(now, h, c)
        if at_every_step:
            loss = loss + nn.functional.cross_entropy(scores, targets[step])
    if at_every_step:
        return loss / len(inputs)
    return nn.functional.cross_entropy(scores, targets)


def time_authors(
    net: AuthorsNet, task: CopyingTask | PixelsTask, p: float, at_every_step: bool
) -> float:
    batches = list(task.batches(0))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    start = time.perf_counter()
    for batch in batches:
        loss = authors_loss(net, batch, p, at_every_step)
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        loss.item()
    return time.perf_counter() - start


def time_authors_copying(task: CopyingTask, options: BenchOptions) -> Times:
    net = AuthorsNet(1, 128, CLASSES)
    updates = time_authors(net, task, options.p, True)
    held_out = task.sequences(task.validation, options.delay)
    start = time.perf_counter()
    with torch.no_grad():
        authors_loss(net, held_out, 0.0, True)
    return updates, time.perf_counter() - start


def time_authors_mnist(task: PixelsTask, options: BenchOptions) -> Times:
    net = AuthorsNet(1, 100, 10)
    updates = time_authors(net, task, options.p, False)
    batch = next(task.batches(1))  # as large as one of the validation
    start = time.perf_counter()
    with torch.no_grad():
        authors_loss(net, batch, 0.0, False)
    return updates, VALIDATION_BATCHES * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
