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

from captioner.export.fusion import FLOAT, Product, attribute, products
from captioner.export.simplification import drop_unused, replace_nodes, run_for
from captioner.export.weights import write_model

_EXTENSIONS = "com.microsoft"  # of ONNX Runtime: one operator where QDQ would be five
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
    """Let large products, with what is added to them, be ONNX Runtime's own of integers."""
    from onnx import helper, numpy_helper

    graph = model.graph
    by_node = {one.node.output[0]: one for one in products(graph) if _is_large(one)}
    multiplied = list(dict.fromkeys(one.node.input[0] for one in by_node.values()))
    ranges = _ranges(model, multiplied, feeds)
    gone = {node.output[0] for one in by_node.values() for node in one.nodes}

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    nodes = []
    read: dict[str, tuple[str, str, str]] = {}  # the integers of what is multiplied
    for node in graph.node:
        result = node.output[0]
        if result not in by_node:
            nodes += [] if result in gone else [node]
            continue
        product, values = by_node[result], node.input[0]
        if values not in read:
            low, high = ranges[values]
            step = max(high - low, 1e-6) / _LEVELS
            scale = constant(f"{values}.scale", np.array(step, np.float32))
            zero = constant(f"{values}.zero", np.array(round(-low / step), np.uint8))
            read[values] = (f"{values}.uint8", scale, zero)
            nodes.append(
                helper.make_node("QuantizeLinear", [values, scale, zero], [f"{values}.uint8"])
            )
        integers, scale, zero = read[values]
        scales = np.abs(product.matrix).max(axis=0) / _GREATEST_WEIGHT
        scales[scales == 0.0] = 1.0
        whole = np.rint(product.matrix / scales).astype(np.int8)
        matrix = constant(f"{result}.int8", whole)
        of_columns = constant(f"{result}.scales", scales.astype(np.float32))
        given = [integers, matrix, scale, of_columns, zero, ""]  # weights have the zero at 0
        if product.bias is not None:
            given.append(constant(f"{result}.bias", product.bias))
        nodes.append(
            helper.make_node("MatMulIntegerToFloat", given, [product.result], domain=_EXTENSIONS)
        )
    replace_nodes(graph, nodes)
    if by_node and all(one.domain != _EXTENSIONS for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_EXTENSIONS, 1))


def _is_large(product: Product) -> bool:
    return min(product.matrix.shape) >= _FEWEST_OUTPUTS


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
        if node.op_type != "Gather" or node.input[0] not in tables or attribute(node, "axis", 0):
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
