"""Profiles of graphs: what ONNX Runtime says of each operator, with its multiplications."""

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from captioner.engines.interface import Candidates, Decoding
from captioner.engines.onnx_engine import SHORT_WAIT

PRODUCTS = ("MatMul", "MatMulIntegerToFloat", "FusedMatMul", "Gemm", "Conv", "FusedConv")


@dataclass(frozen=True)
class Operator:
    """One operator, one time that it ran.

    A convolution's channels count in whole blocks, mostly of 8, as the library keeps them.
    """

    kind: str
    microseconds: float
    multiplications: int


class TimedDecoding:
    """A decoding that adds up the seconds of its steps."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self.calls = 0
        self.seconds = 0.0

    def step(self, *arguments: Any) -> Candidates:
        begin = time.perf_counter()
        made = self._decoding.step(*arguments)
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoding, name)


def profile(graph: Path, threads: int, work: Callable[[Any], Any], runs: int) -> list[Operator]:
    """Return the operators of a graph, of all `runs` in which `work` uses its session.

    What is loaded and arranged once is done before, in a run that does not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SHORT_WAIT))
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        work(session)
        for _ in range(runs):
            work(session)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    ran.sort(key=lambda event: event["ts"])
    return [_operator(event) for event in ran[len(ran) // (runs + 1) :]]


def microseconds_by_kind(operators: Iterable[Operator], runs: int) -> dict[str, float]:
    """Return the microseconds of each kind of operator in one run, most first."""
    found: Counter[str] = Counter()
    for one in operators:
        found[one.kind] += one.microseconds / runs  # type: ignore[assignment]
    return dict(found.most_common())


def _operator(event: dict[str, Any]) -> Operator:
    facts = event["args"]
    kind = facts["op_name"]
    return Operator(kind, event["dur"], _multiplications(kind, facts) if kind in PRODUCTS else 0)


def _multiplications(kind: str, facts: dict[str, Any]) -> int:
    (made, *_), given = _shapes(facts["output_type_shape"]), _shapes(facts["input_type_shape"])
    summed = math.prod(given[1][1:]) if "Conv" in kind else given[0][-1]
    return math.prod(made) * summed


def _shapes(stated: list[dict[str, list[int]]]) -> list[list[int]]:
    return [shape for one in stated for shape in one.values()]
