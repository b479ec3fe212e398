"""Fusion of operators: the same numbers from fewer products, in float32 and in int8."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from captioner.export.fusion import average_by_products, merge_products, products
from captioner.export.quantisation import quantise_products

WEIGHTS = {
    "wide": (24, 40),
    "narrow": (24, 1),
    "plain": (24, 17),
    "alone": (40, 20),
    "bias": (40,),
    "one": (1,),
    "row": (20,),
}


def graph_of(nodes, shape, outputs):
    generator = np.random.default_rng(0)
    weights = {
        name: generator.standard_normal(size).astype(np.float32) for name, size in WEIGHTS.items()
    }
    graph = helper.make_graph(
        [helper.make_node(op, given, made, **more) for op, given, made, more in nodes],
        "graph",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, weights


def run(model, values):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([one.name for one in session.get_outputs()], {"values": values})


# Three products of the same values, one of them read twice and one without a bias; then another.
STEP = [
    ("MatMul", ["values", "wide"], ["a"], {}),
    ("Add", ["bias", "a"], ["b"], {}),
    ("MatMul", ["values", "narrow"], ["c"], {}),
    ("Add", ["c", "one"], ["d"], {}),
    ("MatMul", ["values", "plain"], ["e"], {}),
    ("Tanh", ["b"], ["f"], {}),
    ("MatMul", ["f", "alone"], ["g"], {}),
    ("Mul", ["g", "d"], ["h"], {}),
]


def expected(values, weights):
    wide = np.float64(values) @ weights["wide"] + weights["bias"]
    narrow = np.float64(values) @ weights["narrow"] + weights["one"]
    return np.float64(values) @ weights["plain"], np.tanh(wide) @ weights["alone"] * narrow


def test_products_of_the_same_values_become_one():
    model, weights = graph_of(STEP, ["B", "K", 24], ["e", "h"])
    merge_products(model.graph)
    assert [one.matrix.shape for one in products(model.graph)] == [(24, 58), (40, 20)]
    assert not {"wide", "narrow", "plain"} & {one.name for one in model.graph.initializer}
    values = np.random.default_rng(1).standard_normal((3, 2, 24)).astype(np.float32)
    for found, right in zip(run(model, values), expected(values, weights), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_what_is_read_before_it_is_added_to_keeps_its_sum():
    nodes = [*STEP[:2], *STEP[4:5], ("Tanh", ["a"], ["f"], {})]
    model, weights = graph_of(nodes, ["B", "K", 24], ["b", "e", "f"])
    merge_products(model.graph)
    values = np.random.default_rng(1).standard_normal((1, 2, 24)).astype(np.float32)
    product = values @ weights["wide"]
    right = (product + weights["bias"], values @ weights["plain"], np.tanh(product))
    for found, one in zip(run(model, values), right, strict=True):
        np.testing.assert_allclose(found, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_over_positions_are_products(keepdims):
    node = ("ReduceMean", ["values"], ["mean"], {"axes": [1], "keepdims": keepdims})
    model, _ = graph_of([node], ["B", 9, 24], ["mean"])
    average_by_products(model)
    assert {one.op_type for one in model.graph.node} <= {"MatMul", "Squeeze"}
    values = np.random.default_rng(2).standard_normal((4, 9, 24)).astype(np.float32)
    right = values.mean(axis=1, keepdims=bool(keepdims))
    np.testing.assert_allclose(run(model, values)[0], right, rtol=1e-5, atol=1e-6)


def test_other_means_stay():
    node = ("ReduceMean", ["values"], ["mean"], {"axes": [2], "keepdims": 0})
    for shape in (["B", 9, 24], ["B", "P", 24]):
        axes = [1] if shape[1] == "P" else [2]
        model, _ = graph_of([(*node[:3], {**node[3], "axes": axes})], shape, ["mean"])
        average_by_products(model)
        assert [one.op_type for one in model.graph.node] == ["ReduceMean"]


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_int8_products_add_integers_exactly(tmp_path, op):
    """The sums are those of integers, as a loop adds them, whatever rows stand beside them."""
    if op == "Gemm":
        nodes = [("Gemm", ["values", "wide", "bias"], ["y"], {})]
    else:
        nodes = [("MatMul", ["values", "wide"], ["x"], {}), ("Add", ["x", "bias"], ["y"], {})]
    model, weights = graph_of(nodes, ["B", 24], ["y"])
    onnx.save(model, tmp_path / "float.onnx")
    values = np.random.default_rng(3).uniform(-2, 3, (5, 24)).astype(np.float32)
    quantise_products(tmp_path / "float.onnx", tmp_path / "int8.onnx", [{"values": values}])
    whole = onnx.load(tmp_path / "int8.onnx")
    assert [one.op_type for one in whole.graph.node] == ["QuantizeLinear", "MatMulIntegerToFloat"]

    step = (values.max() - values.min()) / 255
    zero = round(-values.min() / step)
    of_columns = np.abs(weights["wide"]).max(axis=0) / 63
    integers = [
        [min(max(round(float(one) / step) + zero, 0), 255) - zero for one in row] for row in values
    ]
    matrix = [[round(float(one)) for one in row] for row in weights["wide"] / of_columns]
    sums = [
        [sum(a * matrix[k][n] for k, a in enumerate(row)) for n in range(40)] for row in integers
    ]
    right = np.array(sums) * step * of_columns + weights["bias"]
    found = run(whole, values)[0]
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, values @ weights["wide"] + weights["bias"], atol=0.3)
    for row in range(5):
        np.testing.assert_array_equal(run(whole, values[row : row + 1])[0][0], found[row])
