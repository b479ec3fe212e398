"""A decoder, an encoder, an objective and an engine are one file and one line each.

With those in `tests/extensions` a captioner is trained, resumed, evaluated and served.
"""

import importlib.util
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from starlette.testclient import TestClient

import captioner
from captioner.data.shapes import generate
from captioner.decoders import DECODERS
from captioner.encoder.encoders import ENCODERS
from captioner.engines import ENGINES
from serving.app import create_app
from serving.settings import Settings
from training import evaluate_coco, train_coco, validation
from training.objectives import OBJECTIVES

TESTS = Path(__file__).parent


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Enter the toys, each from its one file; yields the module of the engine."""

    def imported(name: str, folder: str = "extensions") -> ModuleType:
        path = shutil.copy(TESTS / folder / f"{name}.py", tmp_path)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    engine = imported("toy_engine")
    monkeypatch.setitem(DECODERS, "toy", imported("toy_decoder").ToyDecoder)
    monkeypatch.setitem(ENCODERS, "toy", imported("toy_encoder").ToyEncoder)
    monkeypatch.setitem(OBJECTIVES, "toy", imported("toy_objective").ToyObjective)
    monkeypatch.setitem(ENGINES, "toy", engine.ToyEngine)
    # No Java: these captions mean nothing.
    monkeypatch.setattr(validation, "Scorer", imported("driver", "training").WordScorer)
    monkeypatch.setattr(evaluate_coco, "scores_table", lambda scores: scores.overall)
    return engine


def test_toys_are_trained_resumed_evaluated_and_served(
    toys: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "shapes", seed=0, sizes=(12, 4, 4))
    chosen = [
        *("--encoder", "toy", "--decoder", "toy", "--objective", "toy"),
        *("--toy-depth", "2", "--toy-power", "0.5", "--p", "0.5"),
        *("--data", "shapes/dataset_shapes.json", "--image-size", "32", "--grid", "2"),
        *("--fine-tune-encoder", "all", "--hidden-size", "8", "--embedding-size", "4"),
        *("--batch-size", "5", "--epochs", "1", "--threads", "1", "--device", "cpu"),
        *("--validate-every", "0", "--out", "run"),
    ]
    assert train_coco.main(chosen) == 0
    assert train_coco.main(["--resume", "run", "--epochs", "2"]) == 0
    config = json.loads(Path("run/config.json").read_text())["config"]
    assert (config["toy_depth"], config["toy_power"]) == (2, 0.5)
    log = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    trained = [line for line in log if line["kind"] == "train"]
    assert [line["epoch"] for line in trained] == [1, 2]
    assert all(line["references"] > 0 for line in trained)
    assert "going on after step 3" in capsys.readouterr().out

    evaluation = ["--checkpoint", "run/best", "--engine", "toy", "--captions-out", "made.json"]
    assert evaluate_coco.main(evaluation) == 0
    assert toys.ToyEngine.images_searched == 4
    assert len(json.loads(Path("made.json").read_text())) == 4

    with io.BytesIO() as file:
        Image.new("RGB", (40, 30), "red").save(file, "PNG")
        photograph = file.getvalue()
    (expected,) = captioner.load("run", engine="toy").caption([photograph])
    settings = Settings(checkpoint=tmp_path / "run" / "best", device="cpu", engine="toy")
    with TestClient(create_app(settings)) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.02)
        answer = client.post("/caption", content=photograph)
    assert answer.status_code == 200, answer.text
    assert answer.json()["caption"] == expected.text
