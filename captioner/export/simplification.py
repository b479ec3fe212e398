"""Simplification of a graph: sizes that are the same for every input become constants.

Modules compute paddings and splits from the sizes of what they get. The exporter follows that,
operator by operator, although only the number of images and captions can change; and libraries
that run graphs merge a padding into its convolution only where it is a constant.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_MOST_NUMBERS = 64  # in a tensor of sizes


def fold_sizes(model: Any, *inputs: Mapping[str, np.ndarray]) -> None:
    """Make those integers constants that are the same for all of some inputs, in place.

    Every dimension that can change must differ between the inputs, and so must whole numbers that
    results depend on.
    """
    import onnx
    from onnx import numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {one.name: one.type.tensor_type.elem_type for one in inferred.graph.value_info}
    names = [name for name, kind in kinds.items() if kind == onnx.TensorProto.INT64]
    if not names:
        return
    runs = list(run_for(model, names, inputs))
    constants = {
        name: found[0]
        for name, *found in zip(names, *runs, strict=True)
        if found[0].size <= _MOST_NUMBERS and all(np.array_equal(found[0], one) for one in found)
    }
    kept = [node for node in model.graph.node if not constants.keys() & set(node.output)]
    replace_nodes(model.graph, kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    drop_unused(model.graph)


def drop_unused(graph: Any) -> None:
    """Remove operators and weights that no output depends on."""
    read = {one.name for one in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    replace_nodes(graph, kept[::-1])
    weights = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def run_for(
    model: Any, names: Sequence[str], inputs: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[list[np.ndarray]]:
    """Yield the values of tensors inside a graph for each of some inputs."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {one.name for one in (*probe.graph.output, *probe.graph.input)}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    read = [one.name for one in session.get_inputs()]
    computed = {one.name for one in session.get_outputs()}
    wanted = [name for name in names if name in computed]
    for given in inputs:
        # Asked for nothing, the library gives everything.
        made = session.run(wanted, {name: given[name] for name in read}) if wanted else []
        found = dict(zip(wanted, made, strict=True))
        yield [found[name] if name in found else given[name] for name in names]


def replace_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Let a graph hold these operators, some of them its own."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
