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
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from bench_turns import BenchOptions, Contestant, in_child, load_of_others, record, take_turns
from torch import Tensor, nn

from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, PROBABILITY, option
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
class LoopOptions(BenchOptions):
    tasks: tuple[str, ...] = option(tuple(TARGETS), "what is trained", choices=tuple(TARGETS))
    p: float = option(0.25, "probability to detach", within=PROBABILITY)
    delay: int = option(100, "of copying", within=AT_LEAST_ONE)
    updates: int = option(20, "timed in a round", within=AT_LEAST_ONE)
    rounds: int = option(5, "turns of each contestant", within=AT_LEAST_ONE)
    mnist: Path = option(Path("data", "mnist"), "where MNIST lies", metavar="DIR")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(LoopOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_training_loops.py",
        lambda: bench(LoopOptions.from_json(vars(parser.parse_args(argv)))),
    )


def bench(options: LoopOptions) -> None:
    if "mnist" in options.tasks:
        load_mnist(options.mnist)
    before = load_of_others()
    record(options, before, {task: compare(task, options) for task in options.tasks})


def compare(task: str, options: LoopOptions) -> dict[str, Any]:
    """Let the contestants take turns at one task, and say what an epoch takes."""
    turns = {}
    for name in (PUBLISHED, FLUSHED, OURS):
        worker = in_child(serve, task, name, options, start="spawn")
        turns[name] = Contestant(worker, "go", options.rounds)
    scale = UPDATES[task] / options.updates
    figures: dict[str, Any] = {}
    for name, pairs in take_turns(turns).items():
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


def report(task: str, figures: dict[str, Any], options: LoopOptions) -> None:
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


def serve(connection: Connection, task: str, name: str, options: LoopOptions) -> None:
    """Answer every request with the times of one round, until nothing is asked."""
    torch.set_flush_denormal(name != PUBLISHED)  # before anything runs in parallel
    torch.set_num_threads(options.threads)
    run = contestant(task, name, options)
    while connection.recv() is not None:
        connection.send(run())


def contestant(task: str, name: str, options: LoopOptions) -> Callable[[], Times]:
    asked = {"p": options.p, "updates": options.updates, "epochs": 1}
    work: CopyingTask | PixelsTask
    config: CopyingConfig | PixelsConfig
    if task == "copying":
        config = CopyingConfig.from_json({**asked, "delay": options.delay})
        work = CopyingTask(config, CPU)
    else:
        config = PixelsConfig.from_json({**asked, "mnist": str(options.mnist)})
        work = PixelsTask(config, CPU)
    if name == OURS:
        return partial(time_ours, work, config)
    return partial(time_authors, work, options)


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


def authors_loss(net: AuthorsNet, batch: Batch, p: float, at_every_step: bool) -> Tensor:
    """Return the loss of a batch, computed step by step."""
    inputs, targets = batch
    h = c = torch.zeros(inputs.shape[1], net.hidden)
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


def time_authors(task: CopyingTask | PixelsTask, options: LoopOptions) -> Times:
    """Run the authors' loop over one epoch's batches, from the initial weights."""
    is_copying = isinstance(task, CopyingTask)
    net = AuthorsNet(1, 128, CLASSES) if is_copying else AuthorsNet(1, 100, 10)
    batches = list(task.batches(0))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    start = time.perf_counter()
    for batch in batches:
        loss = authors_loss(net, batch, options.p, is_copying)
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        loss.item()
    updates = time.perf_counter() - start
    if isinstance(task, CopyingTask):
        held_out, count = task.sequences(task.validation, options.delay), 1
    else:  # one as large as those of the validation
        held_out, count = next(task.batches(1)), VALIDATION_BATCHES
    start = time.perf_counter()
    with torch.no_grad():
        authors_loss(net, held_out, 0.0, is_copying)
    return updates, count * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
