"""ONNX Runtime as an engine: photographs in a batch are encoded as alone, and keep their order."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

import captioner
from captioner import graphs
from captioner.engines import onnx_engine
from captioner.errors import CheckpointError
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from tests.export.toy_captioners import (  # noqa: F401
    pictures,
    renew_hashes,
    toys,
    write_checkpoint,
)


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


@pytest.mark.usefixtures("toys")
def test_a_graph_that_cannot_be_computed_is_named_in_one_line(tmp_path, capfd):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "show_tell")
    out = export_captioner(checkpoint, ExportOptions(out=tmp_path / "out"), announce=print)
    step, weights = onnx.load(out / graphs.STEP, load_external_data=False), out / "step.weights"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-64])
    renew_hashes(out)
    with pytest.raises(
        CheckpointError, match=r"step.onnx cannot be run by ONNX Runtime"
    ) as damaged:
        captioner.load(out, threads=1)
    weights.write_bytes(whole)
    step.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7  # captions at a time
    onnx.save(step, out / graphs.STEP)
    renew_hashes(out)
    with pytest.raises(CheckpointError, match=r"step.onnx cannot be computed by ONNX") as other:
        captioner.load(out, threads=1).caption(pictures(1))
    assert "\n" not in f"{damaged.value}{other.value}"
    assert capfd.readouterr().err == ""  # where the library logs


def test_a_model_that_captions_reports_to_nobody(tmp_path):
    environment = {name: one for name, one in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(tmp_path))
    places["OPENBLAS_NUM_THREADS"] = "1"  # numpy's own
    code = (
        "import captioner, pathlib; captioner.load(threads=1)\n"
        "print(len(list(pathlib.Path('/proc/self/task').iterdir())))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment | places, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr  # another thread would be the one that sends
    assert list(tmp_path.rglob("*")) == []  # nor is there an id of this machine
