"""Calibration of an int8 decoder on captions that it finds in float32."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from captioner import graphs
from captioner.engines.onnx_engine import OnnxEngine
from captioner.export.quantisation import quantise_products
from captioner.features import Features
from captioner.search_config import SearchConfig

_DECODED_IMAGES = 128  # at most, of those that a decoder is calibrated on
_BATCH = 16  # images


class _Recorder:
    """A session that keeps what it is given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.feeds: list[Mapping[str, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], given: Mapping[str, np.ndarray]) -> Any:
        self.feeds.append(given)
        return self._session.run(outputs, given)


def quantise_decoder(source: Path, target: Path, engine: OnnxEngine, features: Features) -> None:
    """Write a decoder's graphs in int8, calibrated on captions that `engine` finds in float32."""
    prepare, step = _Recorder(engine.prepare_graph), _Recorder(engine.step_graph)
    recording = engine.with_graphs(prepare, step)
    for start in range(0, min(len(features), _DECODED_IMAGES), _BATCH):
        recording.search(features.select(slice(start, start + _BATCH)), SearchConfig())
    quantise_products(source / graphs.PREPARE, target / graphs.PREPARE, prepare.feeds)
    quantise_products(source / graphs.STEP, target / graphs.STEP, step.feeds)
