"""A model without weights, in place of the real one, for tests of what lies around it."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.captioner import Caption
from captioner.encoder.preprocessing import Preprocessing
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary
from serving.admission import Ticket
from serving.back_end import Batcher, Outcome
from serving.errors import DeadlineExceeded, Overloaded


def hash_of(generation: int) -> str:
    """Return the hash of the checkpoint that is loaded as number `generation`, from 1."""
    return hashlib.sha256(str(generation).encode()).hexdigest()


class FakeModel:
    """A model, its queue and its decoding processes: answers at once, or as a test sets it."""

    def __init__(self) -> None:
        self.generation = 0  # how often it was loaded
        self.confidence: float | None = None  # of every caption, where it was calibrated
        self.reset()

    def reset(self) -> None:
        self.seconds = 0.0  # that a caption takes
        self.places = 64  # without one, every request is refused
        self.most_captions = 10  # that it finds for an image
        self.options: list[Any] = []  # that captions were asked for with
        self.on_caption: Callable[[], None] = lambda: None
        self.started: list[bytes] = []
        self.finished: list[bytes] = []
        self.load_error: Exception | None = None
        self.caption_error: Exception | None = None
        self.loading_waits_for = threading.Event()
        self.loading_waits_for.set()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeModel":
        """Take the place of the model in every service that is made from now on."""
        from serving import local_back_end, service, settings

        monkeypatch.setattr(
            local_back_end, "MicroBatcher", lambda model, **_: _Batcher(self, model)
        )
        monkeypatch.setattr(service, "DecodePool", lambda **given: _Pool(given["limits"]))
        monkeypatch.setattr(local_back_end, "load_model", self._load)
        monkeypatch.setattr(settings, "shipped_model", lambda: Path("runs"))
        return self

    def _load(self, folder: Path, device: str, engine: str | None, threads: int) -> Any:
        from serving.model import LoadedModel

        assert (device, engine) == ("cpu", None)
        assert threads >= 1
        self.loading_waits_for.wait(30)
        if self.load_error is not None:
            raise self.load_error
        self.generation += 1
        nothing: Any = None
        return LoadedModel(
            captioner=nothing,
            vocabulary=Vocabulary((*SPECIAL_TOKENS, "a", "dog", "runs")),
            preprocessing=Preprocessing(),
            name="fake",
            hash=hash_of(self.generation),
            folder=folder,
            loaded_at=1_700_000_000.0,
            has_confidence=self.confidence is not None,
            engine={"engine": "fake", "precision": {"encoder": "float32", "decoder": "int8"}},
        )


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
        from captioner.sandbox.decode_pool import DecodedImage
        from captioner.sandbox.upload_checks import opened_picture

        with opened_picture(data, self.limits) as (_, header):
            pass
        return DecodedImage(pixels=data, header=header, seconds=0.001)  # type: ignore[arg-type]


class _Batcher(Batcher):
    def __init__(self, fake: FakeModel, model: Any) -> None:
        super().__init__(model, places=0)
        self.fake = fake

    async def start(self) -> None:
        self.open()

    async def close(self) -> None:
        self.shut()

    def why_full(self, *of_request: Any, **more: Any) -> Overloaded | None:
        self._places = self.fake.places
        if self._places and super().why_full(*of_request, **more) is None:
            return None
        return Overloaded("the queue is full", retry_after_seconds=3)

    async def submit(self, ticket: Ticket, pixels: Any, options: Any) -> Outcome:
        self.fake.started.append(pixels)
        self.fake.options.append(options)
        self.fake.on_caption()
        if self.fake.caption_error is not None:
            raise self.fake.caption_error
        loop = asyncio.get_running_loop()
        left = ticket.deadline - loop.time()
        await asyncio.sleep(min(self.fake.seconds, max(left, 0)))
        if self.fake.seconds > left:
            raise DeadlineExceeded("the time was over before the caption was there")
        self.fake.finished.append(pixels)
        captions = [
            Caption(
                text="a dog",
                tokens=("a", "dog"),
                log_prob=-1.0 - rank,
                score=-0.5 - rank,
                confidence=self.fake.confidence,
                token_log_probs=(-0.5, -0.25, -0.25 - rank),
                attention=np.full((2, 2, 2), 0.25, dtype=np.float32),
                shares={"sentinel": np.array([0.7, 0.123456], dtype=np.float32)},
            )
            for rank in range(min(options.num_captions, self.fake.most_captions))
        ]
        return Outcome(captions, 0.001, 0.002, 0.003, 1, ticket.model)
