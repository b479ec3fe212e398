"""The weights of a graph, in a file of their own that processes map and share."""

from pathlib import Path
from typing import Any

import numpy as np

from captioner.export.simplification import replace_nodes

WEIGHTS_SUFFIX = ".weights"
LEAST_BYTES = 1024  # smaller ones stay in the graph
_MOST = float(np.finfo(np.float16).max)


def write_model(model: Any, path: Path) -> None:
    """Write a graph, its weights beside it."""
    import onnx

    weights = path.with_suffix(WEIGHTS_SUFFIX)
    weights.unlink(missing_ok=True)  # else the library adds to it
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=weights.name,
        size_threshold=LEAST_BYTES,
        convert_attribute=False,
    )
    if weights.exists():
        weights.chmod(path.stat().st_mode)  # the library writes for its own user alone


def write_in_float16(source: Path, target: Path) -> None:
    """Write a graph with its large weights in float16, each read through a cast to float32.

    Libraries do the casts once, while they load it, and compute in float32.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = (model := onnx.load(source)).graph
    casts = []
    for number, weight in enumerate(list(graph.initializer)):
        values = numpy_helper.to_array(weight)
        is_large = values.nbytes >= LEAST_BYTES and values.ndim > 1
        if not is_large or weight.data_type != TensorProto.FLOAT or np.abs(values).max() > _MOST:
            continue
        stored = f"{weight.name}.float16"
        casts.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
        half = numpy_helper.from_array(values.astype(np.float16), stored)
        graph.initializer[number].CopyFrom(half)
    replace_nodes(graph, [*casts, *graph.node])
    write_model(model, target)


def lift_constants(graph: Any) -> None:
    """Make weights of large constants, which the exporter leaves as operators."""
    from onnx import numpy_helper

    large = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = numpy_helper.to_array(node.attribute[0].t)
            if value.nbytes >= LEAST_BYTES:
                large.append(node)
                graph.initializer.append(
                    numpy_helper.from_array(np.ascontiguousarray(value), node.output[0])
                )
    for node in large:
        graph.node.remove(node)
