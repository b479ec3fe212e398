"""What tests of the service share: a tiny checkpoint, a running service, a stand-in engine."""

import asyncio
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

import httpx
import numpy as np
import pytest
from PIL import Image

from captioner.captioner import Caption
from captioner.encoder.preprocessing import Preprocessing

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
    ) as service:
        service.wait_until_ready()
        yield service
        assert service.stop() == 0, service.errors


class StandInEngine:
    """The engine's interface without a model: answers at once, or as a test sets it."""

    def __init__(self) -> None:
        self.seconds = 0.0  # that a caption takes
        self.places = 64
        self.started: list[bytes] = []
        self.finished: list[bytes] = []
        self.load_error: Exception | None = None
        self.caption_error: Exception | None = None
        self.loading_waits_for = threading.Event()
        self.loading_waits_for.set()
        self.generation = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from serving import service

        monkeypatch.setattr(service, "MicroBatcher", lambda model, **_: _Batcher(self, model))
        monkeypatch.setattr(service, "DecodePool", lambda **given: _Pool(given["limits"]))
        monkeypatch.setattr(service, "load_model", self._load)
        monkeypatch.setattr(service, "find_checkpoint", lambda folder: folder)
        monkeypatch.setattr(service, "newest_checkpoint", lambda root: root)

    def _load(self, folder: Path, device: str) -> Any:
        from serving.model import LoadedModel

        assert device == "cpu"
        self.loading_waits_for.wait(30)
        if self.load_error is not None:
            raise self.load_error
        self.generation += 1
        return LoadedModel(
            captioner=_Captioner(),  # type: ignore[arg-type]
            name="stand-in",
            hash=f"{self.generation:064d}",
            folder=folder,
            loaded_at=1_700_000_000.0,
        )


class _Captioner:
    class encoder:  # noqa: N801
        preprocessing = Preprocessing()

    vocabulary = range(7)


class _Pool:
    def __init__(self, limits: Any) -> None:
        self.limits = limits

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def healthy(self) -> bool:
        return True

    def expected_wait_seconds(self) -> float:
        return 0.0

    async def decode(self, data: bytes, *, preprocessing: Any, deadline: float) -> Any:  # noqa: ARG002
        from serving.images.decode_pool import DecodedImage
        from serving.images.upload_checks import inspect

        header = inspect(data, self.limits)
        return DecodedImage(pixels=data, header=header, seconds=0.001)  # type: ignore[arg-type]


class _Ticket:
    def __init__(self, batcher: "_Batcher", deadline: float, images: int) -> None:
        self.model, self.deadline, self.images = batcher.model, deadline, images
        self._batcher = batcher

    def __enter__(self) -> "_Ticket":
        self._batcher.held += self.images
        return self

    def __exit__(self, *_: object) -> None:
        self._batcher.held -= self.images


class _Batcher:
    def __init__(self, engine: StandInEngine, model: Any) -> None:
        self.engine, self.model, self.held = engine, model, 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def drain(self, timeout_seconds: float) -> bool:  # noqa: ARG002
        return True

    async def swap(self, model: Any) -> None:
        self.model = model

    def check(self, deadline: float, *, images: int = 1, ahead_seconds: float = 0.0) -> None:  # noqa: ARG002
        from serving.errors import Overloaded

        if self.held + images > self.engine.places:
            raise Overloaded("the queue is full", retry_after_seconds=3)

    def admit(self, deadline: float, *, images: int = 1, ahead_seconds: float = 0.0) -> _Ticket:
        self.check(deadline, images=images, ahead_seconds=ahead_seconds)
        return _Ticket(self, deadline, images)

    async def submit(self, ticket: _Ticket, pixels: bytes, options: Any) -> Any:
        from serving.batching import Outcome
        from serving.errors import DeadlineExceeded

        self.engine.started.append(pixels)
        if self.engine.caption_error is not None:
            raise self.engine.caption_error
        loop = asyncio.get_running_loop()
        left = ticket.deadline - loop.time()
        await asyncio.sleep(min(self.engine.seconds, max(left, 0)))
        if self.engine.seconds > left:
            raise DeadlineExceeded("the time was over before the caption was there")
        self.engine.finished.append(pixels)
        captions = [
            Caption(
                text="a dog",
                tokens=("a", "dog"),
                log_prob=-1.0 - rank,
                score=-0.5 - rank,
                attention=np.full((2, 2, 2), 0.25, dtype=np.float32),
            )
            for rank in range(options.num_captions)
        ]
        return Outcome(captions, 0.001, 0.002, 0.003, 1, ticket.model)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StandInEngine:
    """The stand-in, in place of the engine of every service that the test makes."""
    stand_in = StandInEngine()
    stand_in.install(monkeypatch)
    return stand_in
