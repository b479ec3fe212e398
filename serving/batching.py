"""Queue in front of the model, and the batches that the model runs on.

A request that cannot be answered in time is refused before its body is read. Any other takes a
ticket when its body is complete, so slow uploads block nobody. The number of requests that are
decoding, waiting or being captioned is limited, and so is the time they will take. The model runs
in one lane, a thread, or in several: two batches with a thread each are done sooner than one with
two, which wait for each other at every product. A batch starts at once if a lane is idle. Otherwise
it starts when a lane is free and either the batch is full or its first image has waited for the
window (as in Clipper and Triton, but without delay for an idle model). No timer polls; everything
belongs to one event loop.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from captioner.captioner import Caption
from captioner.search_config import SearchConfig
from captioner.text import in_one_line
from serving.errors import CaptioningFailed, DeadlineExceeded, NotReady, Overloaded

if TYPE_CHECKING:
    from serving.model import LoadedModel

MEMORY_OF_MEAN = 0.2  # weight of the newest batch in the mean time of an image
LONGEST_RETRY = 60  # seconds


@dataclass(frozen=True, eq=False)
class Outcome:
    """The answer to one submitted image."""

    captions: list[Caption]
    queue_seconds: float
    encode_seconds: float  # of the batch that it was part of, as the next
    search_seconds: float
    batch_size: int
    model: "LoadedModel"


class BatchObserver(Protocol):
    """What counts the events of a batcher; called on the event loop."""

    def queue_depth(self, number: int, /) -> None: ...
    def queue_wait(self, seconds: float, /) -> None: ...
    def batch(self, size: int, /) -> None: ...
    def stage(self, name: str, seconds: float, /) -> None: ...  # "encode", "search"


class Ticket(AbstractContextManager["Ticket"]):
    """The right to be captioned: places, a deadline and the model. Release it by `with`."""

    def __init__(
        self, batcher: "MicroBatcher", model: "LoadedModel", deadline: float, images: int
    ) -> None:
        self.model = model  # what this request runs on, also if models are swapped meanwhile
        self.deadline = deadline  # on the clock of loop.time()
        self.images = images
        self._batcher: MicroBatcher | None = batcher

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the places back; a second time does nothing."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher._leave(self.images)


@dataclass(eq=False)
class _Waiting:
    pixels: np.ndarray
    config: SearchConfig
    ticket: Ticket
    since: float
    is_idle: bool  # a lane was, when this came
    outcome: "asyncio.Future[Outcome]" = field(repr=False)


class MicroBatcher:
    """One queue, and a thread for each of the model's lanes."""

    def __init__(
        self,
        model: "LoadedModel",
        *,
        max_batch: int,
        window_seconds: float,
        queue_size: int,
        observer: BatchObserver,
        lanes: int = 1,
    ) -> None:
        self.model = model  # that new requests get; those with a ticket finish on theirs
        self._max_batch = max_batch
        self._window = window_seconds
        self._places = queue_size
        self._observer = observer
        self._waiting: deque[_Waiting] = deque()
        self._arrival = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.admitted = 0  # places that are held: decoding, waiting or being captioned
        self._is_open = False
        self._lanes = lanes
        self._busy = 0  # lanes
        self._seconds_per_image = model.seconds_per_image
        self._thread: ThreadPoolExecutor | None = None
        self._work: set[asyncio.Task[None]] = set()  # one of each lane

    @property
    def queue_depth(self) -> int:
        """How many images wait for the model."""
        return len(self._waiting)

    def expected_wait_seconds(self) -> float:
        """Return how long the images that hold a place will keep the model busy."""
        return self.admitted * self._seconds_per_image / self._lanes

    async def start(self) -> None:
        """Begin to admit."""
        self._thread = ThreadPoolExecutor(self._lanes, thread_name_prefix="model")
        self._work = {asyncio.create_task(self._run()) for _ in range(self._lanes)}
        self._is_open = True

    async def drain(self, timeout_seconds: float) -> bool:
        """Admit nobody any more, and return whether all who were admitted left in time."""
        self._is_open = False
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._empty.wait()
        return self._empty.is_set()

    async def close(self) -> None:
        """Stop; who still waits gets `NotReady`, a batch that runs is left to its end."""
        self._is_open = False
        for lane in self._work:
            lane.cancel()
        if self._work:
            await asyncio.wait(self._work)
        while self._waiting:
            _fail(self._waiting.popleft(), NotReady())
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def admit(self, deadline: float, *, images: int = 1, ahead_seconds: float = 0.0) -> Ticket:
        """Return a ticket for `images` places; raise as `check` does."""
        self.check(deadline, images=images, ahead_seconds=ahead_seconds)
        self.admitted += images
        self._empty.clear()
        return Ticket(self, self.model, deadline, images)

    def check(self, deadline: float, *, images: int = 1, ahead_seconds: float = 0.0) -> None:
        """Raise where nobody is admitted now, and take nothing.

        `ahead_seconds` is the wait expected before the model, `DecodePool.expected_wait_seconds`.

        Raises:
            Overloaded: no place is free, or the answer is expected after the deadline.
            DeadlineExceeded: the deadline has passed.
            NotReady: not started, draining or closed.
        """
        if not self._is_open:
            raise NotReady()
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise DeadlineExceeded()
        reason = self.why_full(left, images=images, ahead_seconds=ahead_seconds)
        if reason is not None:
            raise reason

    def why_full(
        self, left_seconds: float, *, images: int = 1, ahead_seconds: float = 0.0
    ) -> Overloaded | None:
        """Return why a request with so much time left finds no room, or None."""
        wait = ahead_seconds + self.expected_wait_seconds()
        if self.admitted + images > self._places:
            return Overloaded(
                f"all {self._places} places are taken; try again later", _retry_after(wait)
            )
        if wait + images * self._seconds_per_image > left_seconds and self.admitted:
            return Overloaded(
                f"the answer is expected in {math.ceil(wait)} seconds, after the request's "
                "deadline; try again later or allow more time",
                _retry_after(wait),
            )
        return None

    async def submit(self, ticket: Ticket, pixels: np.ndarray, config: SearchConfig) -> Outcome:
        """Return the captions of one decoded image; a cancelled call leaves the queue at once.

        Raises:
            DeadlineExceeded: the ticket's deadline passed first.
            CaptioningFailed: the model failed at this image, also alone.
            NotReady: the batcher was closed.
        """
        loop = asyncio.get_running_loop()
        if not self._work or any(lane.done() for lane in self._work):
            raise NotReady()
        is_idle = self._busy < self._lanes and not self._waiting
        one = _Waiting(pixels, config, ticket, loop.time(), is_idle, loop.create_future())
        self._waiting.append(one)
        self._observer.queue_depth(len(self._waiting))
        self._arrival.set()
        try:
            async with asyncio.timeout_at(ticket.deadline):
                return await one.outcome
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            one.outcome.cancel()
            with suppress(ValueError):  # it is not in the queue once it is in a batch
                self._waiting.remove(one)
                self._observer.queue_depth(len(self._waiting))

    def _leave(self, images: int) -> None:
        self.admitted -= images
        if not self.admitted:
            self._empty.set()

    async def _run(self) -> None:
        while True:
            await self._batch_is_due()
            batch = self._take()
            if batch:
                self._busy += 1
                try:
                    await self._caption(batch)
                except asyncio.CancelledError:
                    for one in batch:
                        _fail(one, NotReady())
                    raise
                finally:
                    self._busy -= 1

    async def _batch_is_due(self) -> None:
        """Wait until the queue holds a batch that is full, old enough, or met an idle model."""
        loop = asyncio.get_running_loop()
        while True:
            self._arrival.clear()
            due = math.inf
            if self._waiting:
                first = self._waiting[0]
                due = first.since + (0.0 if first.is_idle else self._window)
            if len(self._waiting) >= self._max_batch or due <= loop.time():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if due == math.inf else due):
                    await self._arrival.wait()

    def _take(self) -> list[_Waiting]:
        """Return the next batch: the oldest images of one model that are still wanted."""
        now = asyncio.get_running_loop().time()
        batch: list[_Waiting] = []
        passed_over: list[_Waiting] = []
        while self._waiting and len(batch) < self._max_batch:
            one = self._waiting.popleft()
            if one.outcome.done():
                continue
            if one.ticket.deadline <= now:
                _fail(one, DeadlineExceeded())
            elif batch and one.ticket.model is not batch[0].ticket.model:
                passed_over.append(one)
            else:
                batch.append(one)
        self._waiting.extendleft(reversed(passed_over))
        self._observer.queue_depth(len(self._waiting))
        return batch

    async def _caption(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        began, model = loop.time(), batch[0].ticket.model
        pixels, configs = [one.pixels for one in batch], [one.config for one in batch]
        try:
            found, encoding, searching = await loop.run_in_executor(
                self._thread, captions_of_batch, model, pixels, configs
            )
        except Exception as problem:  # whatever the network says to an image
            if len(batch) > 1:
                for one in batch:
                    if not one.outcome.done():
                        await self._caption([one])
            else:
                reason = in_one_line(problem)
                failure = CaptioningFailed(f"the model failed at this image: {reason[:200]}")
                failure.__cause__ = problem
                _fail(batch[0], failure)
            return
        each = (loop.time() - began) / len(batch)
        self._seconds_per_image += MEMORY_OF_MEAN * (each - self._seconds_per_image)
        self._observer.batch(len(batch))
        self._observer.stage("encode", encoding)
        self._observer.stage("search", searching)
        for one, captions in zip(batch, found, strict=True):
            wait = began - one.since
            self._observer.queue_wait(wait)
            if not one.outcome.done():
                one.outcome.set_result(
                    Outcome(captions, wait, encoding, searching, len(batch), model)
                )


def captions_of_batch(
    model: "LoadedModel", pixels: Sequence[np.ndarray], configs: Sequence[SearchConfig]
) -> tuple[list[list[Caption]], float, float]:
    """Return the captions of every image, and the seconds of the encoder and of the search.

    All beams of all images share one search. An image's captions and figures are those it gets
    alone, and from `captioner caption` with as many threads.
    """
    began = time.perf_counter()
    features = model.captioner.features_of_pixels(pixels)
    encoded = time.perf_counter()
    captions = model.captioner.captions_of_features(features, configs)
    return captions, encoded - began, time.perf_counter() - encoded


def _fail(one: _Waiting, problem: Exception) -> None:
    if not one.outcome.done():
        one.outcome.set_exception(problem)


def _retry_after(wait: float) -> int:
    return min(max(1, math.ceil(wait)), LONGEST_RETRY)
