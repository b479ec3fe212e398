"""OpenVINO as an engine for encoders; the decoder's small products stay with ONNX Runtime.

Intel's library is the quicker one for convolutions in int8. It takes an encoder as a graph of ONNX,
or as a graph of its own where that was quantised for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino

from captioner import graphs
from captioner.engines.onnx_engine import OnnxEngine, features_of
from captioner.errors import CheckpointError
from captioner.features import Features
from captioner.text import in_one_line

_IMAGES_AT_ONCE = 8


class OpenvinoEngine(OnnxEngine):
    """OpenVINO for the encoder and ONNX Runtime for the decoder, with a deployable folder."""

    name = "openvino"

    def load_encoder(self) -> Any:
        own = self.deployable.graph(graphs.OPENVINO_ENCODER)
        path = own if own.exists() else self.deployable.graph(graphs.ENCODER)
        try:
            core = openvino.Core()
            settings = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"}
            return core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError as problem:
            raise CheckpointError(
                f"{path} cannot be run by OpenVINO {openvino.__version__}: "
                f"{in_one_line(problem)[:300]}; update openvino, or export the checkpoint again"
            ) from problem

    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        if not pixels:
            return super().encode(pixels)
        parts = [
            features_of(self.run_encoder(np.stack(pixels[start : start + _IMAGES_AT_ONCE])))
            for start in range(0, len(pixels), _IMAGES_AT_ONCE)
        ]
        return Features.cat(parts)

    def run_encoder(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        results = self.encoder_graph(pixels)
        return {port.get_any_name(): np.array(values) for port, values in results.items()}
