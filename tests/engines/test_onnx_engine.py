"""ONNX Runtime as an engine: photographs in a batch are encoded as alone, and keep their order."""

import numpy as np
import pytest

import captioner
from captioner.engines import onnx_engine
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from tests.export.toy_captioners import pictures, toys, write_checkpoint  # noqa: F401


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_photographs_of_a_batch_are_encoded_as_alone(tmp_path, monkeypatch, threads):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    export_captioner(checkpoint, ExportOptions(out=tmp_path / "out"), announce=lambda _: None)
    engine = captioner.load(tmp_path / "out", threads=threads).engine
    pixels = [engine.preprocessing.resize(image) for image in pictures(7)]
    alone = np.concatenate([engine.encode([image]).grid for image in pixels])
    opened = []
    real = onnx_engine.open_graph
    monkeypatch.setattr(
        onnx_engine,
        "open_graph",
        lambda path, threads: opened.append(threads) or real(path, threads),
    )
    for _ in range(2):
        together = engine.encode(pixels)
        np.testing.assert_allclose(together.grid, alone, rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(alone, axis=0)).max() > 1e-3  # else the order would not matter
    assert opened == ([] if threads == 1 else [1])  # by the first batch
