"""The compiled step against a naive one in float64, and against the graph that it stands for."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import captioner
from captioner import graphs
from captioner.checkpoint_folders import SHIPPED
from captioner.engines import onnx_engine
from captioner.engines.compiled_step import CompiledStep, find_compiled_step
from captioner.engines.interface import Candidates
from captioner.engines.onnx_engine import OnnxDecoding, open_step
from captioner.engines.onnx_file import read_graph
from captioner.engines.soft_attention_graph import Product, SoftAttentionStep, recognise
from captioner.errors import CheckpointError
from captioner.features import Features
from captioner.native import decoding
from captioner.search_config import SearchConfig
from captioner.vocabulary import PAD, START, UNKNOWN

pytestmark = pytest.mark.skipif(decoding.find() is None, reason="no compiler, or no AVX2")
STEP = SHIPPED / graphs.STEP


def test_the_model_in_the_box_has_a_compiled_step() -> None:
    engine = captioner.load(threads=1).engine
    assert isinstance(engine.step_graph, CompiledStep)
    assert engine.describe()["step"] == "compiled"


def small(generator: np.random.Generator, words: int, hidden: int, size: int) -> SoftAttentionStep:
    def product(outputs: int) -> Product:
        return Product(
            np.array(2 / 255, np.float32),
            np.array(generator.integers(100, 150), np.uint8),
            generator.integers(-63, 64, (hidden, outputs), np.int8),
            generator.uniform(0.001, 0.02, outputs).astype(np.float32),
            generator.standard_normal(outputs, np.float32),
        )

    never = np.zeros(words, np.float32)
    never[[PAD, START, UNKNOWN]] = -np.inf
    return SoftAttentionStep(
        of_state=product(size + 1 + 4 * hidden),
        of_words=product(words),
        score=generator.standard_normal(size, np.float32),
        table=generator.integers(-127, 128, (words, 4 * hidden), np.int8),
        table_scales=generator.uniform(0.001, 0.01, words).astype(np.float32),
        never=never,
    )


def compiled(step: SoftAttentionStep, threads: int) -> CompiledStep:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "available_cores", lambda: threads)
        return CompiledStep(STEP, read_graph(STEP), step, threads)


def prepared(generator: np.random.Generator, images: int, items: int, step: SoftAttentionStep):
    sizes = {"keys": (items, len(step.score)), "value_gates": (4 * step.hidden, items)}
    found = {
        f"memory.{name}": generator.standard_normal((images, *shape), np.float32)
        for name, shape in sizes.items()
    }
    for name in ("state.h", "state.c"):
        found[name] = np.tanh(generator.standard_normal((images, 1, step.hidden), np.float32))
    return found


def multiplied(product: Product, values: np.ndarray) -> np.ndarray:
    whole = np.clip(np.rint(values / product.step) + int(product.zero), 0, 255)
    sums = (whole - int(product.zero)).astype(np.int64) @ product.matrix.astype(np.int64)
    return sums * (product.step * product.scales.astype(np.float64)) + product.biases


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Naive:
    """The step in float64, a caption at a time."""

    def __init__(self, step: SoftAttentionStep, memory) -> None:
        self.step, self.memory = step, memory
        self.h, self.c = memory["state.h"], memory["state.c"]

    def __call__(self, words: np.ndarray, parents: np.ndarray, hidden: np.ndarray):
        """Return log-probabilities and attention; `hidden` is the state to predict words from."""
        step, size, all_log_probs, all_shares, cells = self.step, len(self.step.score), [], [], []
        for image, caption in np.ndindex(words.shape):
            parent, word = parents[image, caption], words[image, caption]
            of_state = multiplied(step.of_state, self.h[image, parent])
            query, beta, recurrent = np.split(of_state, [size, size + 1])
            keys = self.memory["memory.keys"][image].astype(np.float64)
            scores = np.tanh(keys + query) @ step.score
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            context = sigmoid(beta) * self.memory["memory.value_gates"][image] @ shares
            of_word = step.table[word] * step.table_scales[word].astype(np.float64)
            i, f, g, o = np.split(of_word + context + recurrent, 4)
            cell = sigmoid(f) * self.c[image, parent] + sigmoid(i) * np.tanh(g)
            np.testing.assert_allclose(
                hidden[image, caption], sigmoid(o) * np.tanh(cell), rtol=1e-4, atol=2e-6
            )
            logits = multiplied(step.of_words, hidden[image, caption])
            log_sum = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
            all_log_probs.append(logits - log_sum + step.never)
            all_shares.append(shares)
            cells.append(cell)
        self.h, self.c = hidden, np.array(cells).reshape(hidden.shape)
        shape = words.shape
        return np.array(all_log_probs).reshape(*shape, -1), np.array(all_shares).reshape(*shape, -1)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("words", "hidden", "size", "items"), [(40, 16, 8, 5), (257, 24, 40, 49), (129, 8, 16, 1)]
)
def test_steps_are_those_of_a_naive_loop(
    threads: int, words: int, hidden: int, size: int, items: int
) -> None:
    generator = np.random.default_rng(words)
    step = small(generator, words, hidden, size)
    found_step = compiled(step, threads)
    for images, captions, count, asked in (
        (1, 3, 7, 0),
        (3, 1, 3, 2),
        (2, 5, 11, 4),
        (4, 2, 99, 1),
    ):
        memory = prepared(generator, images, items, step)
        run, naive = found_step.begin(memory), Naive(step, memory)
        read, parents = np.full((images, 1), START), np.zeros((images, 1), np.int64)
        for number in range(5):
            wanted = generator.integers(0, words, (images, asked))
            found = run.step(read, parents, count, wanted)
            log_probs, shares = naive(read, parents, run._state[0])
            assert found.words.shape == (*read.shape, min(count, words))
            best = (-log_probs).argsort(axis=2, kind="stable")[..., : min(count, words)]
            close = {"rtol": 2e-5, "atol": 2e-5}
            expected = np.take_along_axis(log_probs, best, 2)
            np.testing.assert_allclose(found.log_probs, expected, **close)
            np.testing.assert_allclose(
                found.log_probs, np.take_along_axis(log_probs, found.words, 2), **close
            )
            assert all(len(set(row)) == len(row) for row in found.words.reshape(-1, best.shape[2]))
            np.testing.assert_allclose(
                found.wanted, log_probs[np.arange(images)[:, None, None],
                np.arange(read.shape[1])[None, :, None], wanted[:, None]], **close
            )  # fmt: skip
            np.testing.assert_allclose(found.attention, shares, rtol=1e-4, atol=1e-6)
            before = read.shape[1]
            read = generator.integers(0, words, (images, captions))
            parents = generator.integers(0, before, (images, captions))
            if number == 2 and images > 2:
                kept = np.array([0, 2])
                run.keep(kept)
                read, parents, images = read[kept], parents[kept], 2
                naive.h, naive.c = naive.h[kept], naive.c[kept]
                naive.memory = {name: values[kept] for name, values in memory.items()}


def test_results_depend_on_neither_threads_nor_chance() -> None:
    generator = np.random.default_rng(5)
    step = small(generator, 700, 64, 32)
    memory = prepared(generator, 3, 49, step)
    words = generator.integers(0, 700, (4, 3, 3))

    def run(threads: int) -> list[Candidates]:
        decoding_of = compiled(step, threads).begin(memory)
        nothing, none = np.zeros((3, 0), np.int64), np.zeros((3, 3), np.int64)
        return [decoding_of.step(one, none, 9, nothing) for one in words]

    first = run(1)
    for threads in (1, 2, 2, 5):
        for one, other in zip(first, run(threads), strict=True):
            for left, right in zip(one, other, strict=True):
                np.testing.assert_array_equal(left, right)


def test_of_equal_words_the_lower_ids_come_first() -> None:
    generator = np.random.default_rng(6)
    step = small(generator, 100, 8, 8)
    step.of_words.matrix[:], step.of_words.biases[:] = 0, 0.0
    run = compiled(step, 2).begin(prepared(generator, 2, 4, step))
    none, nothing = np.zeros((2, 1), np.int64), np.zeros((2, 0), np.int64)
    found = run.step(none + START, none, 98, nothing)
    may_be_written = [word for word in range(100) if word not in (PAD, START, UNKNOWN)]
    assert found.words[0, 0, :97].tolist() == may_be_written
    assert found.log_probs[0, 0, 97] == -np.inf


def test_queries_of_any_size_are_no_trap() -> None:
    generator = np.random.default_rng(7)
    step = small(generator, 50, 8, 16)
    step.of_state.biases[:16] = np.repeat([-300.0, -41.0, 41.0, 300.0], 4)
    memory = prepared(generator, 1, 6, step)
    memory["memory.keys"][:] = generator.uniform(-30, 30, memory["memory.keys"].shape)
    run, naive = compiled(step, 1).begin(memory), Naive(step, memory)
    read, none = np.full((1, 1), START), np.zeros((1, 1), np.int64)
    found = run.step(read, none, 5, np.zeros((1, 0), np.int64))
    _, shares = naive(read, none, run._state[0])
    np.testing.assert_allclose(found.attention, shares, rtol=1e-4, atol=1e-6)


def test_keys_that_are_too_great_are_left_to_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = captioner.load(threads=1).engine
    grid = np.maximum(np.random.default_rng(7).standard_normal((2, 49, 1280), np.float32), 0)
    real = onnx_engine.run_graph

    def with_great_keys(session, given):
        made = real(session, given)
        made["memory.keys"] = made["memory.keys"] * 100
        return made

    monkeypatch.setattr(onnx_engine, "run_graph", with_great_keys)
    found = engine.search(Features(grid), SearchConfig())
    other = engine.with_graphs(engine.prepare_graph, open_step(STEP, 1))
    assert [one[0].words for one in found] == [
        one[0].words for one in other.search(Features(grid), SearchConfig())
    ]
    assert engine._uncompiled_step is not None


def test_numbers_that_are_none_reach_the_search() -> None:
    generator = np.random.default_rng(8)
    step = small(generator, 60, 8, 8)
    step.of_words.biases[40] = np.nan
    memory = prepared(generator, 1, 6, step)
    read, none = np.full((1, 1), START), np.zeros((1, 1), np.int64)
    found = compiled(step, 2).begin(memory).step(read, none, 5, np.zeros((1, 0), np.int64))
    assert np.isnan(found.log_probs).all()


def test_words_and_captions_that_are_not_there_are_refused() -> None:
    generator = np.random.default_rng(9)
    step = small(generator, 60, 8, 8)
    run = compiled(step, 1).begin(prepared(generator, 1, 6, step))
    none, nothing = np.zeros((1, 1), np.int64), np.zeros((1, 0), np.int64)
    for words, parents, asked in (
        (none + 60, none, nothing),
        (none - 1, none, nothing),
        (none, none + 1, nothing),
        (none, none, none + 60),
    ):
        with pytest.raises(IndexError, match="no such words"):
            run.step(words, parents, 3, asked)
    run.step(none + 59, none, 3, none + 59)


def test_captions_are_those_of_the_graph() -> None:
    engine = captioner.load(threads=2).engine
    other = engine.with_graphs(engine.prepare_graph, open_step(STEP, 2))
    assert isinstance(other.begin(Features(np.zeros((1, 49, 1280), np.float32))), OnnxDecoding)
    generator = np.random.default_rng(10)
    grid = np.maximum(generator.standard_normal((24, 49, 1280), np.float32), 0)
    configs = [
        SearchConfig(beam_size=1 + number % 5, num_captions=1, max_length=3 + number)
        for number in range(24)
    ]
    for features in (Features(grid), Features(grid[:1])):
        pairs = zip(
            engine.search(features, configs[: len(features)]),
            other.search(features, configs[: len(features)]),
            strict=True,
        )
        for (one, *_), (same, *_) in pairs:
            assert one.words == same.words
            # An integer may be the next one where a number lies between two: one step of 63 x 255.
            assert one.log_prob == pytest.approx(same.log_prob, abs=0.01)
            np.testing.assert_allclose(one.attention, same.attention, atol=0.01)


def test_several_callers_share_the_threads() -> None:
    engine = captioner.load(threads=2).engine
    generator = np.random.default_rng(11)
    grids = np.maximum(generator.standard_normal((6, 1, 49, 1280), np.float32), 0)
    config = SearchConfig(max_length=8)
    expected = [engine.search(Features(grid), config)[0][0].words for grid in grids]
    found: dict[int, list[object]] = {}

    def work(number: int) -> None:
        found[number] = [
            engine.search(Features(grids[number]), config)[0][0].words for _ in range(10)
        ]

    callers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == {number: [words] * 10 for number, words in enumerate(expected)}


def test_a_forked_process_computes_alone() -> None:
    generator = np.random.default_rng(12)
    step = small(generator, 300, 16, 8)
    found_step, memory = compiled(step, 3), prepared(generator, 2, 6, step)
    none, nothing = np.zeros((2, 1), np.int64), np.zeros((2, 0), np.int64)
    expected = found_step.begin(memory).step(none + START, none, 5, nothing).words
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        found = found_step.begin(memory).step(none + START, none, 5, nothing).words
        time.sleep(0.01)
        del found_step
        gc.collect()  # which waits for no thread
        os._exit(not np.array_equal(found, expected))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_a_team_has_no_more_threads_than_cores(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(decoding, "available_cores", lambda: 3)
    before = len(list(Path("/proc/self/task").iterdir()))
    team = decoding.Team(threads)
    assert team.threads == min(threads, 3)
    assert len(list(Path("/proc/self/task").iterdir())) == before + team.threads - 1
    del team
    gc.collect()
    assert len(list(Path("/proc/self/task").iterdir())) == before


def test_where_no_thread_can_be_started_the_caller_computes_alone() -> None:
    code = (
        "import resource\nfrom captioner.native import decoding\n"
        "decoding.available_cores = lambda: 4\n"
        "assert decoding.find()\n"
        "import os; os.setuid(65534)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "print(decoding.Team(4).threads)"
    )
    if os.geteuid() != 0:
        pytest.skip("another user's limit can be set by root alone")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    "change",
    ["operator", "input", "attribute", "constant", "matrix", "weight", "type"],
)
def test_any_other_graph_runs_as_it_is(tmp_path: Path, change: str) -> None:
    model = onnx.load(STEP)
    graph = model.graph
    nodes = {one.op_type: one for one in graph.node}
    weights = {one.name: one for one in graph.initializer}
    product = nodes["MatMulIntegerToFloat"]
    if change == "operator":
        nodes["LogSoftmax"].op_type = "Softmax"
    elif change == "input":
        nodes["Tanh"].input[0] = "next.h"
    elif change == "attribute":
        nodes["Softmax"].attribute[0].i = 1
    elif change == "constant":
        name = nodes["Split"].input[1]
        sizes = numpy_helper.to_array(weights[name]) + np.array([1, -1, 0])
        weights[name].CopyFrom(numpy_helper.from_array(sizes, name))
    elif change == "matrix":
        whole = numpy_helper.to_array(weights[product.input[1]]).copy()
        whole[3, 5] = 127  # more than two products can have in 16 bits
        weights[product.input[1]].CopyFrom(numpy_helper.from_array(whole, product.input[1]))
    elif change == "weight":
        scales = numpy_helper.to_array(weights[product.input[3]])[:-1]
        weights[product.input[3]].CopyFrom(numpy_helper.from_array(scales, product.input[3]))
    else:
        scales = numpy_helper.to_array(weights[product.input[3]]).astype(np.float16)
        weights[product.input[3]].CopyFrom(numpy_helper.from_array(scales, product.input[3]))
    path = tmp_path / graphs.STEP
    onnx.save(model, path)
    assert recognise(read_graph(path)) is None
    assert find_compiled_step(path, 1) is None


def test_what_is_prepared_for_another_step_is_refused() -> None:
    generator = np.random.default_rng(13)
    step = small(generator, 60, 8, 8)
    for name, change in (
        ("memory.keys", lambda one: one[:, :, :4]),
        ("memory.value_gates", lambda one: one[:, :-1]),
        ("state.h", lambda one: one[:, :, :4]),
        ("state.c", lambda one: one.astype(np.float64)),
    ):
        memory = prepared(generator, 2, 6, step)
        memory[name] = np.ascontiguousarray(change(memory[name]))
        with pytest.raises(CheckpointError, match="does not fit what prepares images"):
            compiled(step, 1).begin(memory)


def test_a_graph_with_names_from_elsewhere_is_another_one(tmp_path: Path) -> None:
    model = onnx.load(STEP)
    model.graph.node[0].input[0] = "of a graph around it"
    onnx.save(model, tmp_path / graphs.STEP)
    assert find_compiled_step(tmp_path / graphs.STEP, 1) is None


def test_what_cannot_be_read_is_left_to_the_library(tmp_path: Path) -> None:
    path = tmp_path / graphs.STEP
    path.write_bytes(b"no graph")
    assert find_compiled_step(path, 1) is None
