"""Measure what bounds inference: a core's rate, the operators of the graphs, large photographs.

`core` is how much a core multiplies at best. `products` is what part of that rate encoders and
decoders reach, `step` what else a step of the decoder does, and `large` how long a photograph of 12
megapixels takes in several formats. The models are those of `bench_inference.py`, which makes them
(`--prepare`); they should have the machine to themselves.

    python scripts/bench_limits.py --out docs/results
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_inference import write_page
from bench_turns import load_of_others
from inference import BEAMS, STEPS
from inference.core_rate import CoreRate, core_rate
from inference.large_photographs import large_photographs, least_ms
from inference.models import INT8_DECODER, deployable
from inference.options import MODELS
from inference.profiles import TimedDecoding, microseconds_by_kind, profile
from inference.worker import random_grid

from captioner.captioner import load
from captioner.checkpoint_folders import shipped_model
from captioner.engines.onnx_engine import OnnxEngine, open_step
from captioner.errors import ToolError
from captioner.features import Features
from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, Options, option
from captioner.program import run_program
from captioner.search import search
from captioner.search_config import SearchConfig

PARTS = ("core", "products", "step", "large")
MARKS = ("<!-- limits: begin -->", "<!-- limits: end -->")
CONFIG = SearchConfig(beam_size=BEAMS, max_length=STEPS)
SMALL_KIND = 5.0  # microseconds a step; kinds of operators below share a row


@dataclass(frozen=True, kw_only=True)
class LimitOptions(Options):
    parts: tuple[str, ...] = option(PARTS, "what is measured", choices=PARTS)
    models: tuple[str, ...] = option(
        ("resnet152", "lite1"), "whose figures are taken", choices=tuple(MODELS)
    )
    threads: int = option(2, "of the CPU", within=AT_LEAST_ONE)
    rounds: int = option(7, "of each measurement, of which the best counts", within=AT_LEAST_ONE)
    work: Path = option(
        Path("runs/bench_inference"), "where bench_inference.py made the models", metavar="DIR"
    )
    out: Path | None = option(
        None, "folder of inference.md, which gets the tables; default: print them", metavar="DIR"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(LimitOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_limits.py",
        lambda: bench(LimitOptions.from_json(vars(parser.parse_args(argv)))),
    )


def bench(options: LimitOptions) -> None:
    before, tables = load_of_others(), []
    for part in PARTS:
        if part in options.parts:
            for lines in MEASURES[part](options):
                tables.append("\n".join(lines))
                print(tables[-1] + "\n", flush=True)
    after = load_of_others()
    tables.append(
        f"Other programs used {before:.0%} of the processor before and {after:.0%} after."
    )
    print(tables[-1])
    if options.out is not None:
        write_page(options.out / "inference.md", "\n\n".join(tables) + "\n", MARKS)


def core(_: LimitOptions) -> Iterator[list[str]]:
    """Yield the rate of a core."""
    rate = core_rate()
    yield [
        "| a core at best, AVX2 | thousand million multiplications a second |",
        "| --- | ---: |",
        f"| float32 | {rate.float32:.1f} |",
        f"| int8 | {rate.int8:.1f} |",
    ]


def products(options: LimitOptions) -> Iterator[list[str]]:
    """Yield how long multiplications take, and would take at a core's rate."""
    rate = core_rate()
    lines = [
        f"| {options.threads} threads | million multiplications | ms at the core's rate | "
        "ms measured | of the rate |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for model in options.models:
        lines += _products_of_encoder(model, options, rate)
        lines += _products_of_decoder(model, options, rate)
    yield lines


def _products_of_encoder(model: str, options: LimitOptions, rate: CoreRate) -> Iterator[str]:
    title = MODELS[model].title.split(",")[0]
    engine = _engine(model, options, options.threads)
    pixels = np.zeros((1, *_side(engine), 3), np.uint8)
    graph = engine.deployable.graph("encoder.onnx")
    ran = profile(graph, options.threads, lambda one: one.run(None, {"pixels": pixels}), 1)
    count = sum(one.multiplications for one in ran)
    taken = least_ms(lambda: engine.run_encoder(pixels), options.rounds)
    yield _row(f"{title} in float32, ONNX Runtime", count, rate.float32, taken, options.threads)
    try:
        other: Any = load(
            deployable(options.work, model, "int8", "openvino"), threads=options.threads
        ).engine
        taken = least_ms(lambda: other.encode([pixels[0]]), options.rounds)
        yield _row(f"{title} in int8, OpenVINO", count, rate.int8, taken, options.threads)
    except ToolError as problem:
        print(f"{title}, OpenVINO: {problem}")
    batch = [pixels[0]] * 8
    in_turn = least_ms(lambda: [engine.run_encoder(pixels) for _ in batch], options.rounds)
    own = least_ms(lambda: engine.encode(batch), options.rounds)
    yield _row("8 photographs in turn, with all threads", 8 * count, rate.float32, in_turn,
               options.threads)  # fmt: skip
    yield _row("8, each thread takes one", 8 * count, rate.float32, own, options.threads)


def _products_of_decoder(model: str, options: LimitOptions, rate: CoreRate) -> Iterator[str]:
    engine = _engine(model, options, options.threads)
    words = f"decoder in int8, {MODELS[model].words:,} words"
    for part, name in (("prepare", "once a photograph"), ("step", f"{STEPS} steps, beam {BEAMS}")):
        ran = _profile_of(engine, part, options.threads, options.rounds)
        count = sum(one.multiplications for one in ran) / options.rounds
        taken = sum(one.microseconds for one in ran if one.multiplications) / options.rounds / 1e3
        yield _row(f"{words}: {name}", count, rate.int8, taken, options.threads)


def _row(name: str, count: float, rate: float, taken: float, threads: int) -> str:
    wanted = count / (rate * 1e6 * threads)
    return f"| {name} | {count / 1e6:,.0f} | {wanted:.1f} | {taken:.1f} | {wanted / taken:.0%} |"


def step(options: LimitOptions) -> Iterator[list[str]]:
    """Yield the microseconds of each kind of operator in a step, of the call and of the search."""
    columns = dict.fromkeys(
        (model, threads) for model in options.models for threads in (1, options.threads)
    )
    heads = [f"{MODELS[model].words:,} words, threads: {threads}" for model, threads in columns]
    kinds: list[dict[str, float]] = []
    figures: dict[str, list[float]] = {}
    for model, threads in columns:
        engine = _engine(model, options, threads)
        ran = _profile_of(engine, "step", threads, options.rounds)
        kinds.append(microseconds_by_kind(ran, options.rounds * STEPS))
        graph = open_step(engine.deployable.graph("step.onnx"), threads)
        by_graph = engine.with_graphs(engine.prepare_graph, graph)
        for what, one in (("the graph's", by_graph), ("the compiled", engine)):
            step_alone, search = _step_and_search(one, options.rounds)
            figures.setdefault(f"{what} step, not profiled", []).append(step_alone)
            figures.setdefault(f"{what} step: search in numpy beside it", []).append(search)
    shown = [
        kind
        for kind in dict.fromkeys(kind for one in kinds for kind in one)
        if max(one.get(kind, 0.0) for one in kinds) >= SMALL_KIND
    ]
    rows = {kind: [one.get(kind, 0.0) for one in kinds] for kind in shown}
    totals = [sum(one.values()) for one in kinds]
    rows["all others"] = [
        total - sum(one.get(kind, 0.0) for kind in shown)
        for total, one in zip(totals, kinds, strict=True)
    ]
    rows["operators together, profiled"] = totals
    rows |= figures
    yield [
        "| microseconds of a step, one photograph, int8 | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
        *(
            f"| {name} | " + " | ".join(f"{x:.0f}" for x in row) + " |"
            for name, row in rows.items()
        ),
    ]


def _step_and_search(engine: OnnxEngine, rounds: int) -> tuple[float, float]:
    """Return the microseconds of a step, and of the search around it, in the quickest search."""
    features, found = _features(engine), []
    for _ in range(1 + rounds):
        timed = TimedDecoding(engine.begin(features))
        seconds = least_ms(lambda: search(timed, [CONFIG]), 1) / 1e3  # noqa: B023
        outside = 1e6 * (seconds - timed.seconds) / timed.calls
        found.append((seconds, 1e6 * timed.seconds / timed.calls, outside))
    _, step_alone, outside = min(found[1:])  # the first one allocates what is allocated once
    return step_alone, outside


def large(options: LimitOptions) -> Iterator[list[str]]:
    """Yield how long photographs of 12 megapixels take."""
    lines = [
        "| file | MB | at a quarter: ms, off | as it is read: ms, off | decoding alone: ms |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    preprocessing = load(shipped_model()).preprocessing
    for row in large_photographs(preprocessing, options.rounds):
        alone = ", ".join(f"{name} {taken:.0f}" for name, taken in row.get("alone", {}).items())
        lines.append(
            f"| {row['format']} | {row['megabytes']:.1f} | {row['quarter']:.1f}, "
            f"{row['quarter_off']:.2f} | {row['ready']:.1f}, {row['ready_off']:.2f} | {alone} |"
        )
    yield lines


def _engine(model: str, options: LimitOptions, threads: int) -> OnnxEngine:
    folder = deployable(options.work, model, INT8_DECODER, "onnxruntime")
    engine = load(folder, threads=threads).engine
    assert isinstance(engine, OnnxEngine)
    return engine


def _side(engine: OnnxEngine) -> tuple[int, int]:
    side = engine.preprocessing.image_size
    return side, side


def _features(engine: OnnxEngine) -> Features:
    return Features(random_grid(1, engine.deployable.facts["feature_size"]))


def _profile_of(engine: OnnxEngine, part: str, threads: int, rounds: int) -> list[Any]:
    """Return the operators of one of the decoder's graphs in `rounds` searches."""
    features = _features(engine)

    def search(session: Any) -> None:
        prepare, step = engine.prepare_graph, engine.step_graph
        graphs = (session, step) if part == "prepare" else (prepare, session)
        engine.with_graphs(*graphs).search(features, CONFIG)

    return profile(engine.deployable.graph(f"{part}.onnx"), threads, search, rounds)


MEASURES: dict[str, Callable[[LimitOptions], Iterator[list[str]]]] = {
    "core": core,
    "products": products,
    "step": step,
    "large": large,
}

if __name__ == "__main__":
    sys.exit(main())
