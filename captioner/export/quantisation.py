"""Quantisation of graphs to int8: products of a decoder, tables of words, convolutions.

Weights have a scale for each output channel. What they are multiplied by has a fixed scale, found
on photographs: a scale that followed the batch would let other images change a caption. Weights
take 7 of the 8 bits: processors without VNNI add two products in 16 bits, where 8 would overflow
(Intel's VPMADDUBSW), and so the results are the same integers everywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captioner.export.simplification import drop_unused, replace_nodes, run_for
from captioner.export.weights import write_model

FLOAT = 1  # onnx.TensorProto.FLOAT
_FEWEST_OUTPUTS = 16  # of a product that is worth it
_FEWEST_ROWS = 32  # of a table
_GREATEST_WEIGHT, _GREATEST_ROW, _LEVELS = 63, 127, 255

Feed = Mapping[str, np.ndarray]


def quantise_products(source: Path, target: Path, feeds: Sequence[Feed]) -> None:
    """Write a graph whose products with constant matrices, and whose tables, are int8.

    `feeds` are inputs of the graph such as it will meet.
    """
    import onnx

    model = onnx.load(source)
    _quantise_matrices(model, feeds)
    _quantise_tables(model.graph)
    drop_unused(model.graph)
    write_model(model, target)


def _quantise_matrices(model: Any, feeds: Sequence[Feed]) -> None:
    """Let products read quantised numbers, in the form that libraries know as QDQ."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    products = [node for node in graph.node if _is_large_product(node, weights)]
    multiplied = list(dict.fromkeys(node.input[0] for node in products))
    ranges = _ranges(model, multiplied, feeds)

    def constant(name: str, value: Any) -> str:
        if all(one.name != name for one in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    nodes = []
    read: dict[str, str] = {}
    for node in graph.node:
        if node not in products:
            nodes.append(node)
            continue
        values, matrix = node.input[:2]
        if values not in read:
            low, high = ranges[values]
            scale = max(high - low, 1e-6) / _LEVELS
            of_values = [
                constant(f"{values}.scale", np.array(scale, np.float32)),
                constant(f"{values}.zero", np.array(round(-low / scale), np.uint8)),
            ]
            read[values] = f"{values}.read"
            nodes += [
                helper.make_node("QuantizeLinear", [values, *of_values], [f"{values}.uint8"]),
                helper.make_node(
                    "DequantizeLinear", [f"{values}.uint8", *of_values], [read[values]]
                ),
            ]
        numbers = numpy_helper.to_array(weights[matrix])
        if _attribute(node, "transB"):
            numbers = numbers.T
        scales = np.abs(numbers).max(axis=0) / _GREATEST_WEIGHT
        scales[scales == 0.0] = 1.0
        whole = np.rint(numbers / scales).astype(np.int8)
        of_matrix = [
            constant(f"{matrix}.int8", np.ascontiguousarray(whole)),
            constant(f"{matrix}.scales", scales.astype(np.float32)),
            constant(f"{matrix}.zeros", np.zeros(len(scales), np.int8)),
        ]
        result = node.output[0]
        nodes.append(helper.make_node("DequantizeLinear", of_matrix, [f"{result}.matrix"], axis=1))
        if node.op_type == "MatMul":
            nodes.append(helper.make_node("MatMul", [read[values], f"{result}.matrix"], [result]))
            continue
        # With three dimensions: of two, ONNX Runtime would make a product in float32 again.
        place = constant("place.of.rows", np.array([1]))
        made = [f"{result}.{part}" for part in ("rows", "product", "sum")]
        nodes += [
            helper.make_node("Unsqueeze", [read[values], place], [made[0]]),
            helper.make_node("MatMul", [made[0], f"{result}.matrix"], [made[1]]),
            helper.make_node("Add", [made[1], node.input[2]], [made[2]]),
            helper.make_node("Squeeze", [made[2], place], [result]),
        ]
    replace_nodes(graph, nodes)


def _is_large_product(node: Any, weights: Mapping[str, Any]) -> bool:
    """Return whether a node multiplies by a constant matrix that is worth it."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return False
    matrix = weights[node.input[1]]
    plain = not _attribute(node, "transA") and (node.op_type == "MatMul" or len(node.input) == 3)
    plain = plain and all(_attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return (
        plain
        and matrix.data_type == FLOAT
        and len(matrix.dims) == 2
        and min(matrix.dims) >= _FEWEST_OUTPUTS
    )


def _ranges(
    model: Any, names: Sequence[str], feeds: Sequence[Feed]
) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest number of tensors, 0 among them."""
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for found in run_for(model, names, feeds):
        for name, values in zip(names, found, strict=True):
            low, high = ranges[name]
            ranges[name] = (
                min(low, float(values.min(initial=0.0))),
                max(high, float(values.max(initial=0.0))),
            )
    return ranges


def _quantise_tables(graph: Any) -> None:
    """Let each row of a table that words are looked up in be int8 with a scale of its own."""
    from onnx import helper, numpy_helper

    tables = {
        one.name: one
        for one in graph.initializer
        if len(one.dims) == 2 and one.dims[0] >= _FEWEST_ROWS and one.data_type == FLOAT
    }
    nodes = []
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables or _attribute(node, "axis", 0):
            nodes.append(node)
            continue
        table, words = node.input
        rows = numpy_helper.to_array(tables[table])
        scales = np.abs(rows).max(axis=1, keepdims=True) / _GREATEST_ROW
        scales[scales == 0.0] = 1.0
        whole = np.rint(rows / scales).astype(np.int8)
        names = [f"{table}.{part}" for part in ("int8", "scales")]
        for name, values in zip(names, (whole, scales.astype(np.float32)), strict=True):
            if all(one.name != name for one in graph.initializer):
                graph.initializer.append(numpy_helper.from_array(values, name))
        made = [f"{node.output[0]}.{part}" for part in ("row", "scale", "float")]
        nodes += [
            helper.make_node("Gather", [names[0], words], [made[0]], axis=0),
            helper.make_node("Gather", [names[1], words], [made[1]], axis=0),
            helper.make_node("Cast", [made[0]], [made[2]], to=FLOAT),
            helper.make_node("Mul", [made[2], made[1]], [node.output[0]]),
        ]
    replace_nodes(graph, nodes)


def _attribute(node: Any, name: str, default: Any = 0) -> Any:
    from onnx import helper

    found = [one for one in node.attribute if one.name == name]
    return helper.get_attribute_value(found[0]) if found else default
