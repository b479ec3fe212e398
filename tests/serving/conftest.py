"""Shared by tests of the service: a tiny checkpoint, running services, a model without weights."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving.app import create_app
from serving.problems import KINDS
from serving.settings import Settings

from .fake_model import FakeModel

# Slow machines: a process that imports torch may take its time to answer.
START_SECONDS = 120.0


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a captioner of a few thousand weights, whose captions mean nothing, to `folder`."""
    import torch

    from captioner.checkpoint import save_checkpoint
    from captioner.decoders import SoftAttention, build_decoder
    from captioner.encoder.config import EncoderConfig
    from captioner.encoder.timm_encoder import TimmEncoder
    from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

    generator = torch.Generator().manual_seed(seed)
    config = EncoderConfig(name="test_resnet", weights="none", image_size=64, grid=2)
    encoder = TimmEncoder.create(config, generator)
    words = ("a", "dog", "cat", "runs", "sits", "on", "the", "grass", "red", "ball")
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *words))
    decoder = build_decoder(
        "soft_attention",
        SoftAttention.Options(hidden_size=16, embedding_size=8, attention_size=8),
        vocabulary_size=len(vocabulary),
        feature_size=encoder.feature_size,
        generator=generator,
    )
    with torch.no_grad():
        decoder.output.weight.mul_(20)
    save_checkpoint(
        folder, encoder=encoder, decoder=decoder, vocabulary=vocabulary, summary={"epochs": 1}
    )
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint that loads and captions in milliseconds."""
    return make_checkpoint(tmp_path_factory.mktemp("runs") / "tiny" / "best")


def jpeg(size: tuple[int, int] = (64, 48), colour: str = "navy", **options: Any) -> bytes:
    """Return a small photograph as a file."""
    image = Image.new("RGB", size, colour)
    image.paste((250, 220, 40), (4, 4, size[0] // 2, size[1] // 2))
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "JPEG"), **options)
    return buffer.getvalue()


class Running:
    """A service in a process of its own, with its log."""

    def __init__(self, arguments: list[str], environ: dict[str, str] | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
        )
        self._readers = [
            threading.Thread(target=self._read_log, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.url = self.wait_for(lambda: next(iter(self.events("listening")), None))["url"]
        except BaseException:
            self.process.kill()
            self.wait()
            raise
        self.port = int(self.url.rpartition(":")[2])

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: self.status("/health/ready") == 200 or None)

    def status(self, path: str) -> int | None:
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return None

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line.get("event") == name]

    def wait_for(self, look: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
        """Return what `look` finds, as soon as it is not None."""
        end = time.monotonic() + seconds
        while (found := look()) is None:
            if self.process.poll() is not None and time.monotonic() > end - seconds + 2:
                raise AssertionError(f"the service ended: {self.errors} {self.lines[-3:]}")
            assert time.monotonic() < end, f"waited in vain: {self.errors} {self.lines[-3:]}"
            time.sleep(0.05)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(START_SECONDS)
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    def _read_log(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        self.errors.extend(self.process.stderr or ())


@contextmanager
def running(*arguments: str, environ: dict[str, str] | None = None) -> Iterator[Running]:
    """Run a service, and kill it at the end whatever happened."""
    service = Running(list(arguments), environ)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
        service.wait()


@pytest.fixture(scope="session")
def live(tiny_checkpoint: Path) -> Iterator[Running]:
    """A service with short deadlines that many tests talk to."""
    with running(
        *("--checkpoint", str(tiny_checkpoint), "--decode-workers", "1", "--threads", "1"),
        *("--receive-timeout-seconds", "2", "--keep-alive-seconds", "1"),
        *("--cors-origins", "http://app.example"),
    ) as service:
        service.wait_until_ready()
        yield service
        assert service.stop() == 0, service.errors


@pytest.fixture
def model() -> Iterator[FakeModel]:
    """A model without weights, in place of that of every service that the test makes."""
    with pytest.MonkeyPatch.context() as patches:
        yield FakeModel().install(patches)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[TestClient, FakeModel]]:
    with pytest.MonkeyPatch.context() as patches:
        model = FakeModel().install(patches)
        with service_with() as client:
            yield client, model


@pytest.fixture
def client(shared: tuple[TestClient, FakeModel]) -> TestClient:
    """A service in this process that the tests of a module share."""
    return shared[0]


@pytest.fixture
def shared_model(shared: tuple[TestClient, FakeModel]) -> Iterator[FakeModel]:
    """The model of the service that the tests of a module share."""
    yield shared[1]
    shared[1].reset()


@contextmanager
def service_with(**settings: Any) -> Iterator[TestClient]:
    """A service in this process, ready."""
    given = Settings.from_environment({}, checkpoint=Path("."), **settings)
    with TestClient(create_app(given), raise_server_exceptions=False) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.01)
        yield client


def problem(answer: Any) -> tuple[int, str]:
    """Return status and code of an answer that is a whole problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code == KINDS[body["code"]].status
    assert body["title"] == KINDS[body["code"]].title
    assert urljoin(str(answer.url), body["type"]).endswith(f"/problems#{body['code']}")
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    return body["status"], body["code"]
