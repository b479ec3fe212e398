"""The limits of a decoder's steps: its weights read, and its matrix products and nothing else.

At every step each caption of the beam needs the recurrent weights, the attention's query and gate,
and the weights of all words; the rest is a row of a table or is done once per image. The limit is
the time to read these weights from memory or cache once a step, with all threads. The products are
those of ONNX Runtime, with as many rows as the beams of the batch, and of PyTorch.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from inference import BEAMS, STEPS

READ_AT_EVERY_STEP = ("recurrent_gates", "attention_query", "context_gate", "output")


class Limits:
    """The weights of one checkpoint's decoder, to be read and multiplied."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        from safetensors.numpy import load_file

        stored = load_file(checkpoint / "decoder.safetensors")
        self.matrices = [
            np.ascontiguousarray(stored[f"{name}.weight"].T, np.float32)
            for name in READ_AT_EVERY_STEP
        ]
        self.count = sum(matrix.size for matrix in self.matrices)
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def facts(self) -> dict[str, Any]:
        return {"weights_read_at_every_step": self.count, "imports_torch": True}

    def read(self, bytes_each: int) -> Callable[[], Any]:
        """Return what reads all weights once a step, for one batch of any size."""
        numbers = -(-self.count * bytes_each // 8)
        parts = np.array_split(np.ones(numbers, np.uint64), self.threads)

        def run() -> None:
            for _ in range(STEPS):
                list(self.pool.map(np.add.reduce, parts))

        return run

    def products(self, batch: int, library: str) -> Callable[[], Any]:
        """Return what does a step's products as often as there are steps."""
        rows = np.random.default_rng(0).standard_normal(
            (batch * BEAMS, len(self.matrices[0])), np.float32
        )
        if library == "torch":
            return self._torch_products(rows)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            _graph(self.matrices, is_int8=library == "int8"),
            options,
            providers=["CPUExecutionProvider"],
        )

        def run() -> None:
            for _ in range(STEPS):
                session.run(None, {"hidden": rows})

        return run

    def _torch_products(self, rows: np.ndarray) -> Callable[[], Any]:
        import torch

        torch.set_num_threads(self.threads)
        hidden = torch.from_numpy(rows)
        weights = [torch.from_numpy(matrix.T.copy()) for matrix in self.matrices]

        def run() -> None:
            for _ in range(STEPS):
                for weight in weights:
                    torch.nn.functional.linear(hidden, weight)

        return torch.no_grad()(run)


def _graph(matrices: list[np.ndarray], *, is_int8: bool) -> bytes:
    """Return a model of products of one input with each matrix [H, N]."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, stored, outputs = [], [], []
    source = "hidden"
    if is_int8:
        quantised = ["quantised", "scale", "zero"]
        nodes.append(helper.make_node("DynamicQuantizeLinear", ["hidden"], quantised))
        source = "quantised"
    for number, matrix in enumerate(matrices):
        weight, product = f"weight{number}", f"product{number}"
        if is_int8:
            # 7 bits: without VNNI two products are added in 16 bits, where 8 could overflow.
            scale = np.maximum(np.abs(matrix).max(axis=0), 1e-9) / 63.0
            matrix = np.rint(matrix / scale).astype(np.int8)
            inputs, kind, result = [source, weight, "zero"], "MatMulInteger", TensorProto.INT32
        else:
            inputs, kind, result = [source, weight], "MatMul", TensorProto.FLOAT
        stored.append(numpy_helper.from_array(matrix, weight))
        nodes.append(helper.make_node(kind, inputs, [product]))
        outputs.append(helper.make_tensor_value_info(product, result, ["rows", matrix.shape[1]]))
    hidden = helper.make_tensor_value_info(
        "hidden", TensorProto.FLOAT, ["rows", matrices[0].shape[0]]
    )
    graph = helper.make_graph(nodes, "products", [hidden], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()
