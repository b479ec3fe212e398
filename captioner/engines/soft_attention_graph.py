"""The step of the decoder with soft attention in int8, recognised in its exported graph.

What is compiled may stand in for a graph only where that is exactly this computation, so all of it
is compared: the operators, what each reads, and every constant that is no weight.
"""

from typing import NamedTuple

import numpy as np

from captioner.engines.onnx_file import Graph

# Of each operator its kind, what it reads, its attributes and what it makes. w0, w1, ... are
# weights and v0, v1, ... results; H is the size of the state, A that of the attention.
_STEP = """\
Unsqueeze parents [-1] -> v0
GatherND state.h v0 batch_dims=1 -> v1
Unsqueeze parents [-1] -> v2
GatherND state.c v2 batch_dims=1 -> v3
QuantizeLinear v1 w0 w1 -> v4
MatMulIntegerToFloat v4 w2 w0 w3 w1 - w4 -> v5
Split v5 [{A},1,{4H}] axis=-1 -> v6 v7 v8
Unsqueeze v6 [2] -> v9
Unsqueeze memory.keys [1] -> v10
Add v10 v9 -> v11
Tanh v11 -> v12
Transpose v12 perm=[0,1,3,2] -> v13
MatMul w5 v13 -> v14
Squeeze v14 [2] -> v15
Softmax v15 axis=-1 -> attention
Sigmoid v7 -> v16
Mul v16 attention -> v17
Transpose memory.value_gates perm=[0,2,1] -> v18
MatMul v17 v18 -> v19
Gather w6 words axis=0 -> v20
Gather w7 words axis=0 -> v21
Cast v20 to=1 -> v22
Mul v22 v21 -> v23
Add v23 v19 -> v24
Add v24 v8 -> v25
Slice v25 [0] [{H}] [-1] -> v26
Slice v25 [{H}] [{2H}] [-1] -> v27
Slice v25 [{2H}] [{3H}] [-1] -> v28
Slice v25 [{3H}] [{4H}] [-1] -> v29
Sigmoid v27 -> v30
Mul v30 v3 -> v31
Sigmoid v26 -> v32
Tanh v28 -> v33
Mul v32 v33 -> v34
Add v31 v34 -> next.c
Sigmoid v29 -> v35
Tanh next.c -> v36
Mul v35 v36 -> next.h
QuantizeLinear next.h w8 w9 -> v37
MatMulIntegerToFloat v37 w10 w8 w11 w9 - w12 -> v38
LogSoftmax v38 axis=-1 -> v39
Add v39 w13 -> v40
Unsqueeze wanted [1] -> v41
Unsqueeze parents [2] -> v42
Mul v42 0 -> v43
Add v41 v43 -> v44
GatherElements v40 v44 axis=2 -> wanted_log_probs
TopK v40 count axis=-1 -> log_probs candidates
"""
_MOST = 4  # numbers of a constant that is compared
_LANES = 8  # sizes that are computed in vectors are multiples of it
_LEAST_WEIGHT, _GREATEST_WEIGHT = -64, 63  # with them two products of uint8 and int8 fit 16 bits


class Product(NamedTuple):
    """Rows of numbers, rounded to integers, times a matrix: result = sums * scales + biases.

    A number is `step` times its integer less `zero`; a column's `scales` include no `step`.
    """

    step: np.ndarray  # float32 []
    zero: np.ndarray  # uint8 []
    matrix: np.ndarray  # int8 [inputs, outputs]
    scales: np.ndarray  # float32 [outputs]
    biases: np.ndarray  # float32 [outputs]


class SoftAttentionStep(NamedTuple):
    """The weights of a step: H hidden units, A of the attention, V words."""

    of_state: Product  # of the state before: query [A], the context's gate [1], what recurs [4H]
    of_words: Product  # of the state after: logits [V]
    score: np.ndarray  # float32 [A], of the attention's hidden layer
    table: np.ndarray  # int8 [V, 4H], what a word adds to the gates i, f, g and o
    table_scales: np.ndarray  # float32 [V]
    never: np.ndarray  # float32 [V], -inf for words that are never written, else 0

    @property
    def hidden(self) -> int:
        return len(self.of_state.matrix)


def recognise(graph: Graph) -> SoftAttentionStep | None:
    """Return the weights of a step with soft attention in int8, None where the graph is another."""
    lines, weights = _listing(graph)
    sizes = {one.name: one.shape[-1] for one in graph.inputs if one.shape}
    hidden, attention = sizes.get("state.h"), sizes.get("memory.keys")
    if not isinstance(hidden, int) or not isinstance(attention, int):
        return None
    sought = _STEP.replace("{A}", str(attention)).replace("{H}", str(hidden))
    for gates in (2, 3, 4):
        sought = sought.replace(f"{{{gates}H}}", str(gates * hidden))
    if lines != sought.splitlines():
        return None
    found = SoftAttentionStep(
        of_state=Product(*(weights[number] for number in (0, 1, 2, 3, 4))),
        of_words=Product(*(weights[number] for number in (8, 9, 10, 11, 12))),
        score=weights[5].ravel(),
        table=weights[6],
        table_scales=weights[7].ravel(),
        never=weights[13],
    )
    return found if _is_sound(found, hidden, attention) else None


def _is_sound(step: SoftAttentionStep, hidden: int, attention: int) -> bool:
    words = len(step.never)
    shapes = {
        "score": (step.score, np.float32, (attention,)),
        "table": (step.table, np.int8, (words, 4 * hidden)),
        "table_scales": (step.table_scales, np.float32, (words,)),
        "never": (step.never, np.float32, (words,)),
    }
    for name, product, outputs in (
        ("state", step.of_state, attention + 1 + 4 * hidden),
        ("words", step.of_words, words),
    ):
        shapes |= {
            f"{name}.step": (product.step, np.float32, ()),
            f"{name}.zero": (product.zero, np.uint8, ()),
            f"{name}.matrix": (product.matrix, np.int8, (hidden, outputs)),
            f"{name}.scales": (product.scales, np.float32, (outputs,)),
            f"{name}.biases": (product.biases, np.float32, (outputs,)),
        }
    return (
        hidden % _LANES == attention % _LANES == 0
        and all(one.dtype == kind and one.shape == shape for one, kind, shape in shapes.values())
        and all(
            one.matrix.min() >= _LEAST_WEIGHT and one.matrix.max() <= _GREATEST_WEIGHT
            for one in (step.of_state, step.of_words)
        )
    )


def _listing(graph: Graph) -> tuple[list[str], list[np.ndarray]]:
    """Return a line for each operator, with names by order, and the weights in that order."""
    ports = [*graph.inputs, *graph.outputs]
    names = {"": "-"} | {one.name: one.name for one in ports}
    weights: list[np.ndarray] = []
    lines, results = [], 0
    for node in graph.nodes:
        read = []
        for name in node.inputs:
            constant = graph.weights.get(name)
            if constant is not None and constant.dtype == np.int64 and constant.size <= _MOST:
                read.append(str(constant.tolist()).replace(" ", ""))
                continue
            if constant is not None and name not in names:
                names[name] = f"w{len(weights)}"
                weights.append(constant)
            read.append(names.get(name, "?"))  # of a graph around this one
        for name in node.outputs:
            if name not in names:
                names[name] = f"v{results}"
                results += 1
        facts = [f"{name}={value}" for name, value in sorted(node.attributes.items())]
        made = [names[name] for name in node.outputs]
        words = [node.kind, *read, *(one.replace(" ", "") for one in facts), "->", *made]
        lines.append(" ".join(words))
    return lines, weights
