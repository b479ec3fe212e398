"""A decoder's step that is compiled for the processor, in the place of its graph.

Of all decoders those with soft attention in int8 have one (`captioner.native.source.decoding`).
It gives what the graph gives, but for rounding in the last place.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from captioner import graphs
from captioner.engines.interface import Candidates, attributes_in
from captioner.engines.onnx_file import Graph, Port, read_graph
from captioner.engines.soft_attention_graph import Product, SoftAttentionStep, recognise
from captioner.errors import CheckpointError
from captioner.native import decoding

_LANES, _GATES = 8, 4
_KEYS, _VALUES = graphs.MEMORY + "keys", graphs.MEMORY + "value_gates"
_H, _C = graphs.STATE + "h", graphs.STATE + "c"


def find_compiled_step(graph: Path, threads: int) -> "CompiledStep | None":
    """Return what stands for the graph of a step, None where nothing was compiled for it."""
    if decoding.find() is None:
        return None
    try:
        found = read_graph(graph)
    except CheckpointError:  # the library that runs graphs says more of it
        return None
    weights = recognise(found)
    return None if weights is None else CompiledStep(graph, found, weights, threads)


class CompiledStep:
    """The weights of a step with soft attention, arranged for products, and threads for them."""

    def __init__(self, path: Path, graph: Graph, weights: SoftAttentionStep, threads: int) -> None:
        self.path = path
        self.weights = weights
        self.team = decoding.Team(threads)
        self._graph = graph
        products = {**_product("state", weights.of_state), **_product("word", weights.of_words)}
        # Of a row of each product, with those that fill its last block.
        self.columns = len(products["state_sums"]), len(products["word_sums"])
        self.word_parts = decoding.count("word_parts", len(weights.never))
        self.call = decoding.Call("soft_attention_step")  # with what is the same for every image
        self.call.set(hidden=weights.hidden, attention=len(weights.score), words=len(weights.never))
        self.call.point(
            score=2.0 * weights.score,  # of sigmoid(2x), which is tanh(x) / 2 and a constant
            table=weights.table,
            table_scales=weights.table_scales,
            never=weights.never,
            **products,
        )

    def get_inputs(self) -> Sequence[Port]:
        """Return the inputs, as a session of ONNX Runtime does."""
        return self._graph.inputs

    def get_outputs(self) -> Sequence[Port]:
        """Return the outputs, as a session of ONNX Runtime does."""
        return self._graph.outputs

    def begin(self, prepared: Mapping[str, np.ndarray]) -> "CompiledDecoding | None":
        """Return the decoding of images that the graph `prepare` has prepared.

        None where the step cannot take them: its attention has keys beyond 30, which no layer of a
        trained decoder has.

        Raises:
            CheckpointError: they were prepared for another step.
        """
        prepared_arrays = [prepared[name] for name in (_KEYS, _VALUES, _H, _C)]
        keys, gates, h, c = prepared_arrays
        (images, items, attention), hidden = keys.shape, self.weights.hidden
        if (
            attention != len(self.weights.score)
            or {one.dtype for one in prepared_arrays} != {np.dtype(np.float32)}
            or gates.shape != (images, _GATES * hidden, items)
            or not h.shape == c.shape == (images, 1, hidden)
        ):
            raise CheckpointError(
                f"{self.path} does not fit what prepares images; export the checkpoint again"
            )
        arranged_keys = decoding.empty(keys.shape, np.float32)
        values = decoding.empty((images, hidden // _LANES, items, _GATES, _LANES), np.float32)
        takes = decoding.function("arrange_images", ctypes.c_int64)(
            *(ctypes.c_int64(size) for size in (images, items, attention, hidden)),
            *map(decoding.address, (keys, gates, arranged_keys, values)),
        )
        return CompiledDecoding(self, prepared, arranged_keys, values) if takes else None


def _product(name: str, product: Product) -> dict[str, np.ndarray]:
    weights, sums = decoding.arranged(product.matrix)
    columns = len(sums) - product.matrix.shape[1]
    return {
        f"{name}_weights": weights,
        f"{name}_sums": sums,
        f"{name}_scales": np.pad(product.scales, (0, columns)),
        f"{name}_biases": np.pad(product.biases, (0, columns)),
        f"{name}_step": product.step,
        f"{name}_zero": product.zero,
    }


class CompiledDecoding:
    """A batch of images on its way to captions, by the compiled step."""

    def __init__(
        self,
        step: CompiledStep,
        prepared: Mapping[str, np.ndarray],
        keys: np.ndarray,
        values: np.ndarray,
    ) -> None:
        """Begin with exp(-2 keys) [B, P, A] and, of the gates, values [B, H / 8, P, 4, 8]."""
        self._step = step
        self._call = step.call.copy()
        self._state = np.stack([prepared[_H], prepared[_C]])  # h and c: [2, B, K, H]
        self._image_of = np.arange(len(keys))  # where the images still in the batch have their keys
        self._items = keys.shape[1]
        self._call.set(items=self._items)
        self._call.point(image_of=self._image_of, keys=keys, values=values)
        self._rows = self._rows_before = 0  # that there is room for
        self._sizes: tuple[int, ...] = ()  # of the last step
        self._next: np.ndarray  # the state after the step
        self._words: np.ndarray
        self._parents: np.ndarray
        self._asked: np.ndarray
        self.attributes = attributes_in(prepared)

    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        (images, captions), asked = words.shape, wanted.shape[1]
        count = min(count, len(self._step.weights.never))
        sizes = (images, captions, self._state.shape[2], asked)
        if sizes != self._sizes:
            self._make_room(*sizes)
        # Into arrays whose addresses are known: to ask for one takes longer than to copy these.
        self._words[...], self._parents[...], self._asked[...] = words, parents, wanted
        attention = np.empty((images, captions, self._items), np.float32)
        found = Candidates(
            np.empty((images, captions, count), np.float32),
            np.empty((images, captions, count), np.int64),
            np.empty((images, captions, asked), np.float32),
            attention,
        )
        self._call.set(candidates=count)
        self._call.point(
            state=self._state,
            next_state=self._next,
            log_probs=found.log_probs,
            found=found.words,
            asked_log_probs=found.wanted,
            attention_shares=attention,
        )
        if not self._call.run(self._step.team):
            raise IndexError(f"no such words, or captions before them: {words}, {parents}")
        self._state, self._next = self._next, self._state
        return found

    def _make_room(self, images: int, captions: int, before: int, asked: int) -> None:
        """Have room for what steps of these sizes read, make and compute on the way."""
        self._sizes = (images, captions, before, asked)
        step, rows, rows_before = self._step, images * captions, images * before
        hidden, (of_state, of_words) = step.weights.hidden, step.columns
        self._next = np.empty((2, images, captions, hidden), np.float32)
        self._words, self._parents = np.empty((2, images, captions), np.int64)
        self._asked = np.empty((images, asked), np.int64)
        self._call.set(images=images, captions=captions, captions_before=before, asked_words=asked)
        self._call.point(read=self._words, parents=self._parents, asked=self._asked)
        if rows_before > self._rows_before:
            self._rows_before = rows_before
            self._call.point(
                integers_before=decoding.empty((rows_before, hidden), np.uint8),
                of_state=decoding.empty((rows_before, of_state), np.float32),
            )
        if rows > self._rows:
            self._rows = rows
            self._call.point(
                integers_after=decoding.empty((rows, hidden), np.uint8),
                logits=decoding.empty((rows, of_words), np.float32),
                shares=decoding.empty((step.team.threads, rows, self._items), np.float32),
                greatest=decoding.empty((step.word_parts, rows), np.float32),
                sums=decoding.empty((step.word_parts, rows), np.float32),
            )

    def keep(self, images: np.ndarray) -> None:
        self._state = np.ascontiguousarray(self._state[:, images])
        self._image_of = self._image_of[images]
        self._call.point(image_of=self._image_of)
