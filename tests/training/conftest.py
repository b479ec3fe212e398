"""A tiny sample, a tiny run, and a way to train in another process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.data.shapes import generate

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver.py")

TINY = [
    *("--encoder", "test_resnet", "--encoder-weights", "none", "--image-size", "32"),
    *("--encoder-stage", "3", "--grid", "2", "--hidden-size", "16", "--embedding-size", "8"),
    *("--attention-size", "8", "--batch-size", "8", "--epochs", "2", "--device", "cpu"),
    *("--threads", "1", "--workers", "1"),
]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of 40 training, 6 validation and 6 test pictures of shapes."""
    return generate(tmp_path_factory.mktemp("sample") / "shapes", seed=0, sizes=(40, 6, 6))


@pytest.fixture
def tiny(sample: Path, tmp_path: Path) -> list[str]:
    """The command line of a run that takes a second: frozen random encoder, small decoder."""
    store = str(tmp_path / "features")
    return [*TINY, "--data", str(sample), "--fine-tune-encoder", "none", "--feature-store", store]


@pytest.fixture
def tiny_joint(sample: Path) -> list[str]:
    """The same, but the encoder is trained too."""
    return [*TINY, "--data", str(sample), "--fine-tune-encoder", "all"]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start the training script in another process, with scorers that need no Java."""

    def begin(*words: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, str(DRIVER), *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin
