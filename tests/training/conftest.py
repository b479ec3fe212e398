"""A tiny sample, a tiny run, and a way to train in other processes."""

import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import training.validation
from captioner.data.shapes import generate
from training.train_coco import main

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver.py")

TINY = [
    *("--encoder", "test_resnet", "--encoder-weights", "none", "--image-size", "32"),
    *("--encoder-stage", "3", "--grid", "2", "--hidden-size", "16", "--embedding-size", "8"),
    *("--attention-size", "8", "--batch-size", "8", "--epochs", "2", "--device", "cpu"),
    *("--threads", "1", "--workers", "1", "--validate-every", "0", "--no-horizontal-flip"),
    *("--captions-per-image", "5"),
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


class Process:
    """One run of a training script, in a process that may be killed."""

    def __init__(
        self,
        server: "subprocess.Popen[str]",
        program: str,
        words: list[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        log_every: int | None = None,
    ) -> None:
        self._server = server
        self._log = folder / f"log-{secrets.token_hex(4)}.txt"
        self.pid = self._ask(
            {
                "program": program,
                "words": words,
                "folder": str(folder),
                "log": str(self._log),
                "environment": environment or {},
                "log_every": log_every,
            }
        )
        self._status: int | None = None

    @property
    def output(self) -> str:
        return self._log.read_text()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        if self._status is None:
            self._status = self._ask({"pid": self.pid, "poll": True})
        return self._status

    def wait(self) -> int:
        if self._status is None:
            self._status = self._ask({"pid": self.pid, "poll": False})
        assert self._status is not None
        return self._status

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Return as soon as something is so; fail if the run ends before."""
        while not is_so():
            assert self.poll() is None, self.output
            time.sleep(0.002)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(command), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


Start = Callable[..., Process]


@pytest.fixture(scope="session")
def server() -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(DRIVER)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process


@pytest.fixture
def start(server: "subprocess.Popen[str]", tmp_path: Path) -> Start:
    """Start a training script, by default the captioner's, in a process of its own."""
    return lambda *words, program="train_coco", **more: Process(
        server, program, list(words), tmp_path, **more
    )


@pytest.fixture(scope="session")
def driver() -> ModuleType:
    """The program behind `start`, as a module."""
    description = importlib.util.spec_from_file_location("driver", DRIVER)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


@contextmanager
def training_in(folder: Path, driver: ModuleType) -> Iterator[Callable[..., int]]:
    """Run the training script in this process and in `folder`, with the driver's scorer."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.validation, "Scorer", driver.WordScorer)
        patch.chdir(folder)
        yield lambda *words: main([str(word) for word in words])
    torch.set_num_threads(threads)


@pytest.fixture
def train_here(driver: ModuleType, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Run the training script in this process and in `tmp_path`, with the driver's scorer."""
    with training_in(tmp_path, driver) as train:
        yield train


@pytest.fixture(scope="module")
def trained(sample: Path, driver: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run, which no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["--data", str(sample), "--fine-tune-encoder", "none", "--feature-store", "features"]
    with training_in(folder, driver) as train:
        assert train(*TINY, *words, "--p", "0.4", "--epochs", "1", "--out", "run") == 0
    return folder / "run" / "best"
