"""ONNX Runtime as an engine: a deployable captioner without PyTorch, on the CPU.

The encoder sees one photograph at a time, which is as quick as several, and so its features are
the same in any batch. Weights are mapped from their files and shared by processes where the
library does not arrange them anew for the processor.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np
import onnxruntime

from captioner import graphs
from captioner.checkpoint_folders import DEPLOYABLE
from captioner.deployable import DECODER, ENCODER, Deployable, load_deployable
from captioner.engines.compiled_step import CompiledStep, find_compiled_step
from captioner.engines.interface import (
    Attributes,
    Candidates,
    Decoding,
    Engine,
    LoadedEngine,
    attributes_in,
)
from captioner.errors import CheckpointError, OptionError
from captioner.features import Features
from captioner.text import in_one_line

# Microseconds. The operators of a step are so short that waking a thread for each costs a seventh
# of the time; between steps it may sleep.
SHORT_WAIT = 50
_SILENT = 4  # of the library's levels of logging: what goes wrong is raised as well
_FEATURES = {graphs.FEATURES + one.name for one in fields(Features)}
_GRID = graphs.FEATURES + "grid"
COMPILED = "compiled"  # what computes a step, if it is not a library
_VERSION = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
_LIMITS_WAITS = (1, 27)  # an earlier one would wait awake for much longer


class OnnxEngine(Engine):
    """ONNX Runtime with the graphs of a deployable folder."""

    name = "onnxruntime"

    def __init__(self, deployable: Deployable, threads: int | None = None) -> None:
        """Load the graphs; without `threads`, as many compute as this process has cores.

        Raises:
            CheckpointError: a graph is not one that this version of the library can run.
        """
        self.deployable = deployable
        self.preprocessing = deployable.preprocessing
        self.grid = deployable.grid
        self.share_names = tuple(deployable.facts.get("share_names", ()))
        self.attribute_detector = deployable.facts.get("attribute_detector", "")
        self.threads = len(os.sched_getaffinity(0)) if threads is None else threads
        self.encoder_graph = self.load_encoder()
        self._encoder_of_one_thread: onnxruntime.InferenceSession | None = None  # for batches
        self._opening = Lock()  # that several callers open it once
        self.prepare_graph = open_graph(deployable.graph(graphs.PREPARE), self.threads)
        step = deployable.graph(graphs.STEP)
        self.step_graph: Any = find_compiled_step(step, self.threads) or open_step(
            step, self.threads
        )
        self._uncompiled_step: onnxruntime.InferenceSession | None = None
        self._check_decoder()

    @classmethod
    def load(cls, folder: Path, device: str, threads: int | None = None) -> LoadedEngine:
        if device not in ("cpu", "auto"):
            raise OptionError(
                f"device is {device!r}, and engine {cls.name} runs on the CPU; give cpu, or "
                "load the checkpoint by torch"
            )
        deployable = load_deployable(folder)
        engine = cls(deployable, threads)
        return LoadedEngine(engine, deployable.vocabulary, deployable.hash, deployable.summary)

    def _check_decoder(self) -> None:
        """Raise `CheckpointError` where the files of the decoder's graphs hold others."""
        prepared = {one.name for one in self.prepare_graph.get_outputs()}
        asked = {graphs.WORDS, graphs.PARENTS, graphs.COUNT, graphs.WANTED}
        for name, graph, given, wanted in (
            (graphs.PREPARE, self.prepare_graph, _FEATURES, set()),
            (graphs.STEP, self.step_graph, prepared | asked, {graphs.LOG_PROBS, graphs.CANDIDATES}),
        ):
            read = {one.name for one in graph.get_inputs()}
            made = {one.name for one in graph.get_outputs()}
            if not read <= given or not wanted <= made:
                _refuse_graph(self.deployable.graph(name), read, made)
        for name, facts in self._other_sizes():
            raise CheckpointError(
                f"{self.deployable.graph(name)} was made for another {facts} than "
                f"{self.deployable.folder / DEPLOYABLE} says; export the checkpoint again"
            )

    def _other_sizes(self) -> Iterator[tuple[str, str]]:
        """Yield the graphs, and which facts, whose sizes are not those of the folder's facts."""
        prepare, step = self.prepare_graph, self.step_graph
        ports = [*prepare.get_inputs(), *prepare.get_outputs(), *step.get_outputs()]
        shapes = {one.name: one.shape for one in ports}

        def differs(name: str, axis: int, *allowed: int) -> bool:
            stated = shapes.get(name, [])[axis : axis + 1]  # a size that is free has a name
            return any(isinstance(size, int) and size not in allowed for size in stated)

        positions = self.grid**2
        if differs(_GRID, 1, positions):
            yield graphs.PREPARE, "grid"
        if differs(_GRID, 2, self.deployable.facts["feature_size"]):
            yield graphs.PREPARE, "feature_size"
        # A decoder may look at attributes alone.
        attributes = shapes.get(graphs.ATTRIBUTES + Attributes._fields[0], [None, 0])[1:]
        others = len(self.share_names) + sum(one for one in attributes if isinstance(one, int))
        if differs(graphs.ATTENTION, 2, others, others + positions):
            yield graphs.STEP, "grid, or other share_names,"

    def load_encoder(self) -> Any:
        """Return the encoder, ready to run.

        Raises:
            CheckpointError: it is not one that the library can run.
        """
        path = self.deployable.graph(graphs.ENCODER)
        if not path.exists():
            raise CheckpointError(
                f"{self.deployable.folder} holds an encoder for engine "
                f"{self.deployable.facts.get('engine')} alone; load it with that, or export the "
                f"checkpoint again with --engine {self.name}"
            )
        graph = open_graph(path, self.threads)
        shapes = {one.name: one.shape for one in graph.get_inputs()}
        made = {one.name for one in graph.get_outputs()}
        if set(shapes) != {graphs.PIXELS} or not made <= _FEATURES:
            _refuse_graph(path, set(shapes), made)
        side = self.preprocessing.image_size
        if [size for size in shapes[graphs.PIXELS][1:3] if size not in (side, str(size))]:
            raise CheckpointError(
                f"{path} takes pictures of {shapes[graphs.PIXELS][1:3]} pixels, and "
                f"{self.deployable.folder} makes them of {side}; export the checkpoint again"
            )
        return graph

    def with_graphs(self, prepare: Any, step: Any) -> "OnnxEngine":
        """Return an engine with the same encoder and what stands for the decoder's graphs."""
        other = copy(self)
        other.prepare_graph, other.step_graph = prepare, step
        return other

    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        if not pixels:
            return Features(np.empty((0, self.grid**2, self.deployable.facts["feature_size"])))
        if len(pixels) == 1 or self.threads == 1:
            made = [self.run_encoder(image[np.newaxis]) for image in pixels]
        else:
            made = self._encode_side_by_side(pixels)
        return Features.cat([features_of(outputs) for outputs in made])

    def _encode_side_by_side(self, pixels: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Let each thread take photographs of its own.

        They share no work then and never wait for each other: on two cores a third quicker than one
        photograph after the other with both, for the encoder's weights once more.
        """
        with self._opening:
            if self._encoder_of_one_thread is None:
                path = self.deployable.graph(graphs.ENCODER)
                self._encoder_of_one_thread = open_graph(path, threads=1)
            session = self._encoder_of_one_thread

        def encode(image: np.ndarray) -> dict[str, np.ndarray]:
            return run_graph(session, {graphs.PIXELS: image[np.newaxis]})

        with ThreadPoolExecutor(min(self.threads, len(pixels))) as callers:
            return list(callers.map(encode, pixels))

    def run_encoder(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name for images of one size, uint8 [B, h, w, 3]."""
        return run_graph(self.encoder_graph, {graphs.PIXELS: pixels})

    def begin(self, features: Features) -> Decoding:
        given = {
            graphs.FEATURES + name: np.asarray(values, dtype=np.float32)
            for name, values in vars(features.numpy()).items()
            if values is not None
        }
        prepared = run_graph(self.prepare_graph, given)
        step = self.step_graph
        if isinstance(step, CompiledStep):
            if (compiled := step.begin(prepared)) is not None:
                return compiled
            step = self._graph_of_step()
        return OnnxDecoding(step, prepared, self.deployable.facts["vocabulary_size"])

    def _graph_of_step(self) -> onnxruntime.InferenceSession:
        """Return the graph that a compiled step stands for, opened when it is first needed."""
        with self._opening:
            if self._uncompiled_step is None:
                self._uncompiled_step = open_step(self.step_graph.path, self.threads)
            return self._uncompiled_step

    def describe(self) -> dict[str, Any]:
        parts = {name: self.deployable.part(name) for name in (ENCODER, DECODER)}
        return {
            "engine": self.name,
            "device": "cpu",
            "threads": self.threads,
            "step": COMPILED if isinstance(self.step_graph, CompiledStep) else "onnxruntime",
            "precision": {name: part["precision"] for name, part in parts.items()},
            "bytes": {name: part["bytes"] for name, part in parts.items()},
        }


class OnnxDecoding:
    """A batch of images on its way to captions, by the graph of a step."""

    def __init__(
        self, step: onnxruntime.InferenceSession, prepared: Mapping[str, Any], vocabulary_size: int
    ) -> None:
        self._step = step
        self._vocabulary_size = vocabulary_size
        self._outputs = [one.name for one in step.get_outputs()]
        read = {one.name for one in step.get_inputs()}
        self._images = {name: values for name, values in prepared.items() if name in read}
        self.attributes = attributes_in(prepared)

    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        given = {
            graphs.WORDS: words,
            graphs.PARENTS: parents,
            graphs.COUNT: np.array([min(count, self._vocabulary_size)]),
            graphs.WANTED: wanted,
        }
        made = self._step.run(self._outputs, {**self._images, **given})
        found = dict(zip(self._outputs, made, strict=True))
        for name in self._images:
            if name.startswith(graphs.STATE):
                self._images[name] = found[graphs.NEXT + name.removeprefix(graphs.STATE)]
        return Candidates(
            found[graphs.LOG_PROBS],
            found[graphs.CANDIDATES],
            found[graphs.WANTED_LOG_PROBS],
            found.get(graphs.ATTENTION),
        )

    def keep(self, images: np.ndarray) -> None:
        self._images = {name: values[images] for name, values in self._images.items()}


class _Session(onnxruntime.InferenceSession):
    """A graph whose errors name its file."""

    def __init__(self, path: Path, options: onnxruntime.SessionOptions) -> None:
        super().__init__(path, options, providers=["CPUExecutionProvider"])
        self._path = path

    def run(self, *asked: Any) -> list[Any]:
        """Compute outputs.

        Raises:
            CheckpointError: the graph is not for such inputs, or cannot be computed.
        """
        try:
            made: list[Any] = super().run(*asked)
        except Exception as problem:
            raise CheckpointError(_about(self._path, "computed", problem)) from problem
        return made


def _about(path: Path, what: str, problem: Exception) -> str:
    return (
        f"{path} cannot be {what} by ONNX Runtime {onnxruntime.__version__}: "
        f"{in_one_line(problem)[:300]}; update onnxruntime, or export the checkpoint again"
    )


def open_graph(path: Path, threads: int, *, waits: int = 0) -> onnxruntime.InferenceSession:
    """Return a graph of ONNX, ready to run.

    `waits`: the microseconds that a thread waits awake for more to do before it sleeps.

    Raises:
        CheckpointError: the library cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # A thread that waits asleep leaves its core to others: see captioner/threads.py.
    is_awake = waits > 0 and _VERSION >= _LIMITS_WAITS
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(is_awake)))
    if is_awake:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(waits))
    try:
        return _Session(path, options)
    except Exception as problem:  # the library has a dozen kinds, none with a common root
        raise CheckpointError(_about(path, "run", problem)) from problem


def open_step(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return the graph of a decoder's step, whose threads are awake from operator to operator."""
    return open_graph(path, threads, waits=SHORT_WAIT)


def _refuse_graph(path: Path, read: set[str], made: set[str]) -> NoReturn:
    raise CheckpointError(
        f"{path} holds another graph, one from {', '.join(sorted(read))} to "
        f"{', '.join(sorted(made))}; export the checkpoint again"
    )


def run_graph(
    session: onnxruntime.InferenceSession, given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return all outputs of a graph by name; what it does not read may be given too."""
    outputs = [one.name for one in session.get_outputs()]
    read = {one.name: given[one.name] for one in session.get_inputs()}
    return dict(zip(outputs, session.run(outputs, read), strict=True))


def features_of(outputs: Mapping[str, np.ndarray]) -> Features:
    """Return the features that an encoder's graph gives by name."""
    fields = {name.removeprefix(graphs.FEATURES): values for name, values in outputs.items()}
    return Features(**fields)
