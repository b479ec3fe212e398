"""Files of graphs read without the package `onnx`: what that package reads."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from captioner.checkpoint_folders import SHIPPED
from captioner.engines.onnx_file import read_graph
from captioner.errors import CheckpointError


def equals(path: Path) -> None:
    graph, read = onnx.load(path).graph, read_graph(path)
    assert [(one.op_type, tuple(one.input), tuple(one.output)) for one in graph.node] == [
        (one.kind, one.inputs, one.outputs) for one in read.nodes
    ]
    for node, other in zip(graph.node, read.nodes, strict=True):
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if isinstance(value, float | int | list):
                assert other.attributes[attribute.name] == value
    for ports, others in ((graph.input, read.inputs), (graph.output, read.outputs)):
        shapes = [one.type.tensor_type.shape.dim for one in ports]
        assert [one.name for one in ports] == [one.name for one in others]
        assert [tuple(size.dim_param or size.dim_value for size in one) for one in shapes] == [
            one.shape for one in others
        ]
    assert len(graph.initializer) == len(read.weights)
    for one in graph.initializer:
        expected, found = numpy_helper.to_array(one), read.weights[one.name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["encoder.onnx", "prepare.onnx", "step.onnx"])
def test_the_graphs_of_the_model_in_the_box_are_read(name: str) -> None:
    equals(SHIPPED / name)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A graph with numbers written in every way that the format has."""
    generator = np.random.default_rng(0)
    large = generator.standard_normal((40, 30)).astype(np.float32)
    weights = [
        numpy_helper.from_array(large, "external"),
        numpy_helper.from_array(large[:2].astype(np.float16), "raw"),
        helper.make_tensor("floats", TensorProto.FLOAT, [3], [0.5, -2.25, 3e-30]),
        helper.make_tensor("longs", TensorProto.INT64, [2, 2], [-1, 2**40, -(2**62), 0]),
        helper.make_tensor("bytes", TensorProto.INT8, [4], [-128, -1, 0, 127]),
        helper.make_tensor("scalar", TensorProto.UINT8, [], [200]),
        helper.make_tensor("none", TensorProto.FLOAT, [0], []),
    ]
    names = ("Resize", ["in", "", "floats"], ["out"], "a node")
    node = helper.make_node(*names, mode="cubic", factor=-0.5, axis=-1, axes=[1, -2, 300])
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3, 1 << 20])
        for name in ("in", "out")
    ]
    graph = helper.make_graph([node], "graph", ports[:1], ports[1:], weights)
    path = tmp_path / "graph.onnx"
    onnx.save_model(
        helper.make_model(graph),
        path,
        save_as_external_data=True,
        location="weights",
        size_threshold=1024,
    )
    return path


def test_numbers_are_read_however_they_are_written(written: Path) -> None:
    equals(written)
    assert isinstance(read_graph(written).weights["external"], np.memmap)


def test_half_a_file_is_an_error_in_one_line_or_another_graph(written: Path) -> None:
    whole = written.read_bytes()
    said = []
    for size in range(0, len(whole), 7):
        written.write_bytes(whole[:size])
        try:
            read_graph(written)
        except CheckpointError as problem:
            said.append(str(problem))
    assert len(said) > len(whole) / 7 * 0.9
    assert all(one.startswith(f"{written} is no graph that can be read (") for one in said)
    assert not any("\n" in one for one in said)


def test_bytes_of_any_kind_are_an_error_or_a_graph(written: Path) -> None:
    generator = np.random.default_rng(0)
    whole = np.frombuffer(written.read_bytes(), np.uint8)
    for _ in range(150):
        changed = whole.copy()
        places = generator.integers(0, len(whole), 3)
        changed[places] = generator.integers(0, 256, 3)
        written.write_bytes(changed.tobytes())
        with suppress(CheckpointError):
            read_graph(written)


def test_weights_that_are_cut_off_are_an_error(written: Path) -> None:
    weights = written.parent / "weights"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="no graph that can be read"):
        read_graph(written)
