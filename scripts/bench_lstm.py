"""Time the h-detach LSTM against nn.LSTM and the LSTMCell loop, taking turns in one run.

A figure is one forward and one backward pass of the layer, from a given gradient of its outputs
(copying, captioning) or of its last state (pixel MNIST) to those of its parameters. "nn.LSTM"
flushes denormal numbers in all threads, which has to be asked for before the first parallel
operation; "nn.LSTM as it comes" does not, and has a process to itself. The floor is the time of
the matrix products alone, by the same library that nn.LSTM uses, with nothing detached.

    python scripts/bench_lstm.py --json bench.json
    python scripts/bench_lstm.py --growth growth.png
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from bench_turns import BenchOptions, Contestant, in_child, load_of_others, record, take_turns
from torch import Tensor, nn

from captioner.flags import options_parser
from captioner.lstm import HDetachLSTM
from captioner.options import AT_LEAST_ONE, option
from captioner.program import run_program
from training.plots import new_figure, write_picture

AS_IT_COMES = "nn.LSTM as it comes"
BASE = "nn.LSTM"
NO_ONEDNN = "nn.LSTM, oneDNN off"
FLOOR = "matrix products"
GROWTH = {
    "steps": (100, 300, 1000, 2000, 5000),
    "batch": (10, 30, 100, 300, 1000),
    "hidden": (32, 64, 128, 256, 512, 1024),
}

Pass = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Shape:
    steps: int
    batch: int
    inputs: int
    hidden: int
    classes: int  # of the output layer, 0 where there is none in the benchmark
    at_every_step: bool = True  # else the loss sees the last state only


SHAPES = {
    "copying-120": Shape(steps=120, batch=100, inputs=1, hidden=128, classes=9),
    "copying-320": Shape(steps=320, batch=100, inputs=1, hidden=128, classes=9),
    "mnist": Shape(steps=784, batch=100, inputs=1, hidden=100, classes=10, at_every_step=False),
    "captioning": Shape(steps=18, batch=125, inputs=1792, hidden=512, classes=0),
}
TINY = Shape(steps=2, batch=2, inputs=1, hidden=1, classes=0)


@dataclass(frozen=True, kw_only=True)
class LstmOptions(BenchOptions):
    shapes: tuple[str, ...] = option(tuple(SHAPES), "what is timed", choices=tuple(SHAPES))
    backends: tuple[str, ...] = option(("cpu", "torch"), "of the h-detach LSTM")
    p: tuple[float, ...] = option((0.0, 0.25, 0.5), "probabilities to detach")
    bf16: bool = option(False, "add rows with bfloat16 products")
    slow_rounds: int = option(3, "rounds of what is not flushed", within=AT_LEAST_ONE)
    growth: Path | None = option(None, "instead, draw how time grows with each size", metavar="PNG")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(LstmOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_lstm.py", lambda: bench(LstmOptions.from_json(vars(parser.parse_args(argv))))
    )


def bench(options: LstmOptions) -> None:
    before = load_of_others()
    # Load and compile what is loaded on first use, without starting any thread yet.
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="TF32")  # said when oneDNN is switched off
    for make in contestants(TINY, options).values():
        make()()
    torch.set_num_threads(options.threads)
    figures = compare(options) if options.growth is None else growth(options, options.growth)
    record(options, before, figures)


def contestants(
    shape: Shape, options: LstmOptions, with_head: bool = False
) -> dict[str, Callable[[], Pass]]:
    """Return for each contestant what makes its training pass, on the same numbers for all."""
    torch.manual_seed(0)
    base = nn.LSTM(shape.inputs, shape.hidden)
    case = Case(shape, with_head)

    def without_onednn() -> Pass:
        return torch.backends.mkldnn.flags(enabled=False)(case.training_pass(base, base))

    made: dict[str, Callable[[], Pass]] = {
        BASE: partial(case.training_pass, base, base),
        NO_ONEDNN: without_onednn,
    }
    for p in options.p:
        made[f"loop, p = {p:g}"] = partial(case.training_pass, base, partial(loop, base, p))
    for backend in options.backends:
        for p in options.p:
            for precision in ("full", "bf16") if options.bf16 else ("full",):
                layer = HDetachLSTM(
                    shape.inputs, shape.hidden, p=p, backend=backend, precision=precision
                )
                layer.load_state_dict(base.state_dict())
                name = f"{backend}, p = {p:g}" + (", bf16" if precision == "bf16" else "")
                made[name] = partial(case.training_pass, layer, layer)
    made[FLOOR] = partial(matrix_products, shape)
    return made


class Case:
    """The data of a shape, and behind the layer a given gradient, or output layer and loss."""

    def __init__(self, shape: Shape, with_head: bool) -> None:
        self.shape, self.with_head = shape, with_head
        self.x = torch.randn(shape.steps, shape.batch, shape.inputs)
        seen = (shape.steps, shape.batch) if shape.at_every_step else (shape.batch,)
        self.grad = torch.randn(*seen, shape.hidden) / (shape.steps * shape.batch)
        if with_head:
            self.head = nn.Linear(shape.hidden, shape.classes)
            self.targets = torch.randint(shape.classes, seen)

    def training_pass(self, module: nn.Module, layer: Callable[[Tensor], Any]) -> Pass:
        def run() -> None:
            module.zero_grad()
            outputs, (h_n, _) = layer(self.x)
            seen = outputs if self.shape.at_every_step else h_n.view(-1, self.shape.hidden)
            if not self.with_head:
                seen.backward(self.grad)
                return
            self.head.zero_grad()
            logits = self.head(seen).flatten(0, -2)
            nn.functional.cross_entropy(logits, self.targets.flatten()).backward()

        return run


def loop(base: nn.LSTM, p: float, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run the weights of `base` as the authors of h-detach do: a cell, and `.detach()`."""
    h = c = x.new_zeros(x.shape[1], base.hidden_size)
    detached = (torch.rand(len(x)) < p).tolist()
    outputs = []
    for now, is_detached in zip(x.unbind(), detached, strict=True):
        h, c = torch.lstm_cell(now, (h.detach() if is_detached else h, c), *base.parameters())
        outputs.append(h)
    return torch.stack(outputs), (h, c)


def matrix_products(shape: Shape) -> Pass:
    """Return what does the products of a pass and nothing else."""
    rows = shape.steps * shape.batch
    hidden, grad = torch.ones(shape.batch, shape.hidden), torch.ones(shape.batch, 4 * shape.hidden)
    weight = torch.ones(4 * shape.hidden, shape.hidden)
    all_grads, all_hidden = torch.ones(rows, 4 * shape.hidden), torch.ones(rows, shape.hidden)
    x, inward = torch.ones(rows, shape.inputs), torch.ones(4 * shape.hidden, shape.inputs)

    def run() -> None:
        for _ in range(shape.steps):
            hidden @ weight.t()
            grad @ weight
        all_grads.t() @ all_hidden
        if shape.inputs > 1:
            x @ inward.t()
            all_grads.t() @ x

    return run


def serve_times(
    connection: Connection, shape: Shape, options: LstmOptions, head: bool, flush: bool
) -> None:
    """Answer the name of a contestant with the seconds of one pass, until nothing is asked."""
    torch.set_flush_denormal(flush)
    made = {name: make() for name, make in contestants(shape, options, head).items()}
    while (name := connection.recv()) is not None:
        start = time.perf_counter()
        made[name]()
        connection.send(time.perf_counter() - start)


def serve_peak(connection: Connection, shape: Shape, options: LstmOptions, name: str) -> None:
    """Send the bytes that two passes of one contestant need at their peak, beyond its data."""
    torch.set_flush_denormal(True)
    contestants(TINY, options)[name]()()
    run = contestants(shape, options)[name]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = status_bytes("VmRSS")
    run()
    run()
    connection.send(status_bytes("VmHWM") - before)


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def compare(options: LstmOptions) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in options.shapes:
        for head in (False, True) if SHAPES[name].classes else (False,):
            title = f"{name}, with output layer and loss" if head else name
            figures[title] = compare_shape(SHAPES[name], options, head)
            report(title, figures[title])
    return figures


def compare_shape(shape: Shape, options: LstmOptions, head: bool) -> dict[str, Any]:
    names = list(contestants(TINY, options))
    if head:
        names = [name for name in names if name not in (NO_ONEDNN, FLOOR)]
    flushed = in_child(serve_times, shape, options, head, True)
    turns = {name: Contestant(flushed, name, options.rounds) for name in names}
    if not head:
        plain = in_child(serve_times, shape, options, head, False)
        turns = {AS_IT_COMES: Contestant(plain, BASE, options.slow_rounds), **turns}
    rows: dict[str, dict[str, Any]] = {
        name: {"seconds": seconds} for name, seconds in take_turns(turns).items()
    }
    figures: dict[str, Any] = {"shape": asdict(shape), "contestants": rows}
    if not head and Path("/proc/self/clear_refs").exists():
        for name in (name for name in names if name != FLOOR):
            rows[name]["peak_bytes"] = in_child(serve_peak, shape, options, name).recv()
    return figures


def report(title: str, figures: dict[str, Any]) -> None:
    rows = figures["contestants"]
    base = rows[BASE]["seconds"]
    print(f"\n{title}: milliseconds; how many times as quick as nn.LSTM")
    print(f"{'':<24}{'min':>9}{'median':>9}{'ratio':>8}{'x floor':>9}{'peak MB':>9}")
    for name, row in rows.items():
        low, middle = min(row["seconds"]), statistics.median(row["seconds"])
        least = statistics.median(rows[FLOOR]["seconds"]) if FLOOR in rows else None
        floor = "-" if least is None else f"{middle / least:.2f}"
        peak = f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "-"
        ratio = statistics.median(base) / middle
        print(f"{name:<24}{1e3 * low:>9.1f}{1e3 * middle:>9.1f}{ratio:>7.2f}x{floor:>9}{peak:>9}")
        row.update(min=low, median=middle, ratio=ratio)


def growth(options: LstmOptions, picture: Path) -> dict[str, Any]:
    """Time nn.LSTM and the first backend while one size of copying-120 changes, and draw it."""
    options = replace(options, p=tuple(sorted(options.p)[len(options.p) // 2 :][:1]))
    names = (BASE, f"{options.backends[0]}, p = {options.p[0]:g}")
    figures: dict[str, Any] = {}
    for size, values in GROWTH.items():
        for value in values:
            shape = Shape(**{**asdict(SHAPES["copying-120"]), size: value})
            worker = in_child(serve_times, shape, options, False, True)
            turns = {name: Contestant(worker, name, options.rounds) for name in names}
            for name, seconds in take_turns(turns).items():
                middle = statistics.median(seconds)
                figures.setdefault(size, {}).setdefault(name, {})[value] = middle
                print(f"{size} {value:>5}  {name:<16}{1e3 * middle:>9.1f} ms", flush=True)
    draw(picture, figures)
    return figures


def draw(path: Path, figures: dict[str, dict[str, dict[int, float]]]) -> None:
    figure = new_figure(12, 3.8)
    axes = figure.subplots(1, len(figures), sharey=True)
    symbols = ("T", "batch", "hidden")
    for axis, symbol, (size, lines) in zip(axes, symbols, figures.items(), strict=True):
        for name, points in lines.items():
            axis.loglog(list(points), [1e3 * s for s in points.values()], "o-", label=name)
        axis.set_xlabel(f"{size} ({symbol})")
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("forward and backward, ms")
    axes[0].legend()
    write_picture(path, figure)


if __name__ == "__main__":
    sys.exit(main())
