"""Fusion of operators: fewer and larger products, which a graph's steps spend less time between.

A step multiplies a few rows only, so a product costs little more than reading its matrix, and
handing it to the threads counts. The results are the same but for rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from captioner.export.simplification import drop_unused, replace_nodes

FLOAT = 1  # onnx.TensorProto.FLOAT


class Product(NamedTuple):
    """A product with a constant matrix, and the constant that is added to it."""

    node: Any
    matrix: np.ndarray  # [K, N]
    bias: np.ndarray | None  # [N]
    result: str  # with the bias, if there is one
    nodes: Sequence[Any]  # all that it takes the place of


def products(graph: Any) -> Iterator[Product]:
    """Yield the products of a graph whose right matrix is a constant of two dimensions."""
    from onnx import numpy_helper

    weights = {one.name: one for one in graph.initializer if one.data_type == FLOAT}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {one.name for one in graph.output}
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
            continue
        matrix = numpy_helper.to_array(weights[node.input[1]])
        if matrix.ndim != 2 or (node.op_type == "Gemm" and not _is_plain(node)):
            continue
        if attribute(node, "transB"):
            matrix = matrix.T
        result, bias = node.output[0], None
        last, added = node, list(node.input[2:])
        read_by = readers.get(result, []) if result not in outputs else []
        if node.op_type == "MatMul" and [one.op_type for one in read_by] == ["Add"]:
            last = read_by[0]
            added = [name for name in last.input if name != result]
        if len(added) == 1 and added[0] in weights:
            bias = numpy_helper.to_array(weights[added[0]])
        if bias is not None and bias.shape == (matrix.shape[1],):
            nodes = [node] if last is node else [node, last]
            yield Product(node, matrix, bias, last.output[0], nodes)
        elif node.op_type == "MatMul":
            yield Product(node, matrix, None, result, [node])


def merge_products(graph: Any) -> None:
    """Let what is multiplied by several matrices be multiplied by one, in place."""
    from onnx import helper, numpy_helper

    groups: dict[str, list[Product]] = {}
    for product in products(graph):
        if product.node.op_type == "MatMul":
            groups.setdefault(product.node.input[0], []).append(product)
    merged = [group for group in groups.values() if len(group) > 1]
    gone = {node.output[0] for group in merged for one in group for node in one.nodes}
    instead: dict[str, list[Any]] = {}  # by the output of the node that they stand for
    for group in merged:
        first = group[0].node
        name = f"{first.output[0]}.merged"
        matrix, bias, sizes = f"{name}.matrix", f"{name}.bias", f"{name}.sizes"
        biases = [np.zeros(p.matrix.shape[1]) if p.bias is None else p.bias for p in group]
        constants = {
            matrix: np.concatenate([product.matrix for product in group], axis=1),
            bias: np.concatenate(biases).astype(np.float32),
            sizes: np.array([product.matrix.shape[1] for product in group]),
        }
        graph.initializer.extend(
            numpy_helper.from_array(values, key) for key, values in constants.items()
        )
        instead[first.output[0]] = [
            helper.make_node("MatMul", [first.input[0], matrix], [f"{name}.product"]),
            helper.make_node("Add", [f"{name}.product", bias], [f"{name}.sum"]),
            helper.make_node(
                "Split", [f"{name}.sum", sizes], [one.result for one in group], axis=-1
            ),
        ]
    nodes = []
    for node in graph.node:
        if node.output[0] in gone:
            nodes += instead.get(node.output[0], [])
        else:
            nodes.append(node)
    replace_nodes(graph, nodes)
    drop_unused(graph)


def average_by_products(model: Any) -> None:
    """Let means over the second of three dimensions be products with a row, in place.

    ONNX Runtime takes means over a dimension other than the last ten times as slowly.
    """
    import onnx
    from onnx import helper, numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        one.name: [size.dim_value for size in one.type.tensor_type.shape.dim]
        for one in (*inferred.value_info, *inferred.input)
    }
    nodes = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0], []) if node.op_type == "ReduceMean" else []
        if len(shape) != 3 or not shape[1] or attribute(node, "axes", None) != [1]:
            nodes.append(node)
            continue
        row, place = f"{node.output[0]}.row", f"{node.output[0]}.place"
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.full((1, shape[1]), 1.0 / shape[1], np.float32), row),
                numpy_helper.from_array(np.array([1]), place),
            ]
        )
        is_kept = attribute(node, "keepdims", 1)
        made = node.output[0] if is_kept else f"{node.output[0]}.kept"
        nodes.append(helper.make_node("MatMul", [row, node.input[0]], [made]))
        if not is_kept:
            nodes.append(helper.make_node("Squeeze", [made, place], [node.output[0]]))
    replace_nodes(model.graph, nodes)


def attribute(node: Any, name: str, default: Any = 0) -> Any:
    """Return what an operator has under a name, or else the default."""
    from onnx import helper

    found = [one for one in node.attribute if one.name == name]
    return helper.get_attribute_value(found[0]) if found else default


def _is_plain(gemm: Any) -> bool:
    """Return whether a product of two dimensions neither scales nor transposes what it reads."""
    return not attribute(gemm, "transA") and all(
        attribute(gemm, name, 1.0) == 1.0 for name in ("alpha", "beta")
    )
