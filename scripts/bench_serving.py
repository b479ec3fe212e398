"""Benchmark of the service, beside plain FastAPI routes and LitServe around the same model.

Each contestant captions the same photograph, sent as a form, in turns on the same machine: first as
many as it can for clients that wait for their answers, then open loop at rising rates, which are
shares of the service's capacity. h2load (Debian: nghttp2-client) sends, niced. Those that wait for
their turn are stopped. With the checkpoint that the model was exported from, one more route runs
it by PyTorch with a textbook's search, as one would without this library. LitServe may be installed
into a folder of its own, named by LITSERVE.

    pip install --target /tmp/litserve litserve
    LITSERVE=/tmp/litserve python scripts/bench_serving.py --model DIR --json serving.json
"""

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request

from bench_turns import BenchOptions, load_of_others, record
from serving_bench.contestants import SERVICE, Contestant, contestants, library_images_per_second
from serving_bench.load import KIND, Answers, at_a_rate, capacity, check_h2load, form_of
from stress.client import photographs

from captioner.checkpoint_folders import MODEL
from captioner.errors import OptionError, ToolError
from captioner.flags import options_parser
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, option
from captioner.program import run_program

SHARES = (0.5, 0.8, 1.0, 1.25, 2.0, 5.0)  # of the service's capacity
KEPT = 0.95  # of a rate must come back as captions in time, or it is beyond the knee


@dataclass(frozen=True, kw_only=True)
class ServingBenchOptions(BenchOptions):
    rounds: int = option(2, "turns of each contestant", within=AT_LEAST_ONE)
    model: Path = option(Path("runs"), "exported folder or checkpoint to serve", metavar="DIR")
    checkpoint: Path | None = option(
        None, "what the model was exported from, for a route by PyTorch", metavar="DIR"
    )
    photo: Path | None = option(None, "photograph to send (a made one)", metavar="FILE")
    seconds: float = option(4.0, "of each turn", within=ABOVE_ZERO)
    deadline: float = option(5.0, "seconds after which an answer is no use", within=ABOVE_ZERO)
    workers: int = option(1, "serving processes of the service", within=AT_LEAST_ONE)
    max_batch: int = option(8, "most images of a batch, where there are batches", within=ABOVE_ZERO)
    shares: tuple[float, ...] = option(SHARES, "of the service's capacity, as rates")
    plot: Path | None = option(None, "draw goodput and p99 here", metavar="FILE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, and return the exit status."""
    return run_program("bench_serving.py", lambda: _bench(argv))


def _bench(argv: Sequence[str] | None) -> int:
    parser = options_parser(ServingBenchOptions, description=(__doc__ or "").splitlines()[0])
    options = ServingBenchOptions.from_json(vars(parser.parse_args(argv)))
    if not options.model.is_dir():
        raise OptionError(f"model is {str(options.model)!r}, where there is no folder")
    if options.checkpoint is not None and not (options.checkpoint / MODEL).is_file():
        raise OptionError(f"checkpoint is {str(options.checkpoint)!r}, which holds no {MODEL}")
    check_h2load()
    load_before = load_of_others()
    with tempfile.TemporaryDirectory(prefix="captioner-bench-") as folder:
        photo, body = Path(folder, "photo.jpg"), Path(folder, "body")
        data = photographs(1)[0].data if options.photo is None else options.photo.read_bytes()
        photo.write_bytes(data)
        body.write_bytes(form_of(data))
        figures = _figures(options, photo, body)
    _print(figures)
    if options.plot is not None:
        _draw(figures, options.plot)
    record(options, load_before, figures)
    return 0


def _figures(options: ServingBenchOptions, photo: Path, body: Path) -> dict[str, Any]:
    probe = Request("http://x", body.read_bytes(), {"Content-Type": KIND})
    there: list[Contestant] = []
    starts = {}
    try:
        every = contestants(
            options.model,
            options.checkpoint,
            options.threads,
            options.max_batch,
            options.workers,
        )
        for one in every:
            began = time.monotonic()
            try:
                one.start(probe)
            except ToolError as missing:
                if one.name == SERVICE:
                    raise
                print(f"left out: {missing}; is it installed? see --help")
                continue
            starts[one.name] = time.monotonic() - began
            there.append(one)
            one.signal(signal.SIGSTOP)
        capacities, library = _capacities(options, there, photo, body)
        most = statistics.median(capacities[SERVICE])
        answers: dict[str, dict[float, list[Answers]]] = {one.name: {} for one in there}
        for _ in range(options.rounds):
            for share in options.shares:
                for one in there:
                    _go_on(one, probe)
                    found = at_a_rate(
                        one.url, body, share * most, options.seconds, options.deadline
                    )
                    answers[one.name].setdefault(share, []).append(found)
                    one.signal(signal.SIGSTOP)
        memory = {}
        for one in there:
            one.signal(signal.SIGCONT)
            memory[one.name] = one.memory_mib()
    finally:
        for one in there:
            one.stop()
    return {
        "library": statistics.median(library),
        "contestants": {
            one.name: {
                "seconds_to_first_caption": round(starts[one.name], 2),
                "memory_mib": memory[one.name],
                "capacity": statistics.median(capacities[one.name]),
                "rates": [_median(share, found) for share, found in answers[one.name].items()],
            }
            for one in there
        },
    }


def _capacities(
    options: ServingBenchOptions, there: Sequence[Contestant], photo: Path, body: Path
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the images per second of each contestant and of the library, by turns."""
    found: dict[str, list[float]] = {one.name: [] for one in there}
    library = []
    for _ in range(options.rounds):
        library.append(library_images_per_second(there[0], photo, options.seconds))
        for one in there:
            one.signal(signal.SIGCONT)
            found[one.name].append(capacity(one.url, body, options.seconds, one.clients))
            one.signal(signal.SIGSTOP)
    return found, library


def _go_on(one: Contestant, probe: Request) -> None:
    """Let a contestant go on when it has done what was left; start it anew if that takes long."""
    one.signal(signal.SIGCONT)
    if not one.answers(probe, 10.0):
        one.stop()
        one.start(probe)


def _median(share: float, found: Sequence[Answers]) -> dict[str, Any]:
    """Return the figures of one rate, the medians of its rounds."""

    def middle(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return round(statistics.median(there), 2) if there else None

    rate = statistics.median(one.offered for one in found)
    goodput = statistics.median(one.goodput for one in found)
    return {
        "share": share,
        "rate": round(rate, 2),
        "goodput": round(goodput, 2),
        "is_kept": goodput >= KEPT * rate,
        "p50_ms": middle([one.milliseconds(0.5) for one in found]),
        "p95_ms": middle([one.milliseconds(0.95) for one in found]),
        "p99_ms": middle([one.milliseconds(0.99) for one in found]),
        "refused": sum(len(one.refused) for one in found),
        "refused_p50_ms": middle([one.milliseconds(0.5, refused=True) for one in found]),
        "refused_p99_ms": middle([one.milliseconds(0.99, refused=True) for one in found]),
        "failed": sum(one.failed for one in found),
    }


def knee(rates: Sequence[dict[str, Any]]) -> float | None:
    """Return the highest rate up to which all is answered in time, or None."""
    kept = None
    for one in sorted(rates, key=lambda one: one["rate"]):
        if not one["is_kept"]:
            break
        kept = one["rate"]
    return kept


def _print(figures: dict[str, Any]) -> None:
    """Print two tables in Markdown."""
    library, found = figures["library"], figures["contestants"]
    service = found[SERVICE]["capacity"]
    print(
        f"library: {library:.1f} images/s in batches; the service {service / library:.0%} of it\n"
    )
    _row("", "images/s", "the service's, times", "knee, /s", "first caption, s", "PSS, MiB")
    _row("---", *["---:"] * 5)
    for name, one in found.items():
        ratio, start = service / one["capacity"], one["seconds_to_first_caption"]
        memory = one["memory_mib"]["PSS"]
        cells = (one["capacity"], ratio, knee(one["rates"]), start, memory)
        _row(name, *("-" if cell is None else f"{cell:.4g}" for cell in cells))
    heads = ("rate", "goodput", "p50_ms", "p95_ms", "p99_ms", "refused_p99_ms", "failed")
    print()
    _row("", "of capacity", *(head.replace("_", " ") for head in heads))
    _row("---", *["---:"] * (len(heads) + 1))
    for name, one in found.items():
        for row in one["rates"]:
            cells = (row["share"], *(row[head] for head in heads))
            _row(name, *("-" if cell is None else f"{cell:.4g}" for cell in cells))


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _draw(figures: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name, one in figures["contestants"].items():
        rates = [row["rate"] for row in one["rates"]]
        left.plot(rates, [row["goodput"] for row in one["rates"]], "o-", label=name)
        right.plot(rates, [row["p99_ms"] or float("nan") for row in one["rates"]], "o-", label=name)
    left.set(xlabel="requests/s", ylabel="captions/s within the deadline", xscale="log")
    right.set(xlabel="requests/s", ylabel="p99 of captions, ms", xscale="log", yscale="log")
    for axes in (left, right):
        axes.set_xticks(rates, [f"{rate:.0f}" for rate in rates])
        axes.minorticks_off()
        axes.legend()
        axes.grid(visible=True, alpha=0.3)
    drawing.tight_layout()
    drawing.savefig(path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    sys.exit(main())
