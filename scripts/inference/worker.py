"""A contestant in a process of its own: answers requests in JSON, a line each, with seconds.

It runs with the code that PYTHONPATH names, also that of earlier commits, whose captioners were
made otherwise. Standard output is kept for the answers.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference import BEAMS, GRID, STEPS


class CaptionerWorker:
    """The captioner of some commit, some folder and some engine."""

    def __init__(self, request: dict[str, Any]) -> None:
        start = time.perf_counter()
        import captioner

        asked = {"engine": request["engine"], "threads": request["threads"]}
        if request["is_before"]:
            asked = {}
        load: Any = captioner.load
        self.captioner: Any = load(request["folder"], **asked)
        if request["is_uncompiled"]:
            self._run_graph_of_step(request["threads"])
        self.load_seconds = time.perf_counter() - start
        if request["is_before"]:
            import torch

            torch.set_num_threads(request["threads"])
        holder: Any = (
            self.captioner if hasattr(self.captioner, "engine") else self.captioner.encoder
        )
        self.preprocessing = holder.preprocessing
        self.photographs = [Path(path).read_bytes() for path in request["photographs"]]
        self.next = 0

    def _run_graph_of_step(self, threads: int) -> None:
        from captioner.engines.onnx_engine import open_step
        from captioner.graphs import STEP

        engine = self.captioner.engine
        step = open_step(engine.deployable.graph(STEP), threads)
        self.captioner.engine = engine.with_graphs(engine.prepare_graph, step)

    def facts(self) -> dict[str, Any]:
        engine = getattr(self.captioner, "engine", None)
        known = engine.describe() if engine and hasattr(engine, "describe") else {}
        return {
            "load_seconds": self.load_seconds,
            "imports_torch": "torch" in sys.modules,
            "engine": {key: str(value) for key, value in known.items()},
        }

    def decode(self, batch: int, features: int) -> Callable[[], Any]:
        grid = random_grid(batch, features)
        search = self._searcher()
        return lambda: [[int(word) for word in one[0].words] for one in search(grid)]

    def encode(self, batch: int) -> Callable[[], Any]:
        read = self.preprocessing.read
        pixels = [read(image) for image in self._photographs(batch)]
        if hasattr(self.captioner, "engine"):
            return lambda: len(self.captioner.engine.encode(pixels))
        return lambda: len(self.captioner.encoder.encode_pixels(pixels))

    def photograph(self, batch: int) -> Callable[[], Any]:
        self.next = 0  # all contestants begin with the same photographs

        def run() -> list[str]:
            images = self._photographs(batch)
            captions = self.captioner.caption(images, beam_size=BEAMS, batch_size=batch)
            return [caption.text for caption in captions]

        return run

    def read(self) -> Callable[[], Any]:
        """Return what makes the first photograph ready for the encoder."""
        preprocessing, image = self.preprocessing, self.photographs[0]
        if "torch" in sys.modules:  # elsewhere the encoder's graph begins with it
            return lambda: preprocessing.normalise(as_tensor(preprocessing.read(image))).shape
        return lambda: preprocessing.read(image).shape

    def _photographs(self, count: int) -> list[bytes]:
        found = [self.photographs[(self.next + n) % len(self.photographs)] for n in range(count)]
        self.next += count
        return found

    def _searcher(self) -> Callable[[np.ndarray], Any]:
        from captioner import search

        config: Any = search.SearchConfig(beam_size=BEAMS, max_length=STEPS)
        if not hasattr(self.captioner, "engine"):
            import torch

            return lambda grid: search.search(
                self.captioner.decoder,
                torch.from_numpy(grid),  # type: ignore[arg-type]
                config,
            )
        from captioner.features import Features

        engine = self.captioner.engine
        if "torch" in sys.modules:
            import torch

            return lambda grid: engine.search(Features(torch.from_numpy(grid)), config)
        return lambda grid: engine.search(Features(grid), config)


def as_tensor(pixels: Any) -> Any:
    """Return pixels as a tensor [3, h, w], which earlier commits already give."""
    import torch

    if isinstance(pixels, np.ndarray):
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return pixels


def random_grid(batch: int, features: int) -> np.ndarray:
    """Return features as an encoder's last rectifier leaves them: float32 [B, P, D]."""
    generator = np.random.default_rng(0)
    return np.maximum(generator.standard_normal((batch, GRID * GRID, features), np.float32), 0)


def timed(run: Callable[[], Any], seconds: float, most: int) -> dict[str, Any]:
    """Run until so many seconds have gone, at most so often; return each run's seconds."""
    times: list[float] = []
    result: Any = None
    while (len(times) < most and sum(times) < seconds) or not times:
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return {"seconds": times, "result": result}


def memory() -> dict[str, int]:
    """Return the peak of this process's memory, and what no other process could share of it."""
    # getrusage's peak would be the larger one of this process and of the one that started it
    peak = _sum_of("status", "VmHWM:")
    return {"peak_bytes": peak, "own_bytes": _sum_of("smaps_rollup", "Private_Dirty:", "Swap:")}


def _sum_of(file: str, *names: str) -> int:
    """Return the sum of these lines of a file of /proc/self in bytes, 0 where there is none."""
    path = Path("/proc/self") / file
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return sum(int(line[1]) << 10 for line in lines if line[:1] and line[0] in names)


def make(request: dict[str, Any]) -> Any:
    if request["kind"] == "textbook":
        from inference.textbook import Textbook

        return Textbook(Path(request["folder"]), request["threads"])
    if request["kind"] == "limits":
        from inference.limits import Limits

        return Limits(Path(request["folder"]), request["threads"])
    return CaptionerWorker(request)


def answer(worker: Any, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the worker, which the first request makes, and what it answers."""
    what = request.pop("do")
    if what == "load":
        worker = make(request)
        return worker, worker.facts()
    if what == "memory":
        return worker, memory()
    seconds, most = request.pop("seconds"), request.pop("most")
    return worker, timed(getattr(worker, what)(**request), seconds, most)


def main(_: Sequence[str] = ()) -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    worker: Any = None
    for line in sys.stdin:
        try:
            worker, reply = answer(worker, json.loads(line))
        except Exception as problem:
            reply = {"error": f"{type(problem).__name__}: {problem}"[:400]}
        print(json.dumps(reply), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
