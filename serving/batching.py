"""Queue in front of a model of this process, and the batches that the model runs on.

The model runs in one lane, a thread, or in several: two batches with a thread each are done sooner
than one with two, which wait for each other at every product. A batch starts at once if a lane is
idle. Otherwise it starts when a lane is free and either the batch is full or its first image has
waited for the window (as in Clipper and Triton, but without delay for an idle model). No timer
polls; everything belongs to one event loop.
"""

import asyncio
import math
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from captioner.search_config import SearchConfig
from captioner.text import in_one_line
from serving.admission import Ticket
from serving.back_end import Batcher, BatchObserver, Outcome
from serving.errors import CaptioningFailed, DeadlineExceeded, NotReady
from serving.model import LoadedModel, captions_of_batch

MEMORY_OF_MEAN = 0.2  # weight of the newest batch in the mean time of an image


@dataclass(eq=False, repr=False)
class _Waiting:
    pixels: np.ndarray
    config: SearchConfig
    ticket: Ticket
    since: float
    is_idle: bool  # a lane was, when this came
    outcome: "asyncio.Future[Outcome]"


class MicroBatcher(Batcher):
    """One queue, and a thread for each of the model's lanes."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_batch: int,
        window_seconds: float,
        queue_size: int,
        observer: BatchObserver,
        lanes: int = 1,
        nice: int = 0,
    ) -> None:
        """`nice` is how much nicer the model's threads are than the event loop.

        The loop computes a quarter of the time at most, but each time it wakes among equals it
        would wait until one of them is interrupted.
        """
        super().__init__(
            model, places=queue_size, seconds_per_image=model.seconds_per_image, lanes=lanes
        )
        self._max_batch = max_batch
        self._window = window_seconds
        self._nice = nice
        self._observer = observer
        self._waiting: deque[_Waiting] = deque()
        self._arrival = asyncio.Event()
        self._busy = 0  # lanes
        self._thread: ThreadPoolExecutor | None = None
        self._work: set[asyncio.Task[None]] = set()  # one of each lane

    @property
    def queue_depth(self) -> int:
        """How many images wait for the model."""
        return len(self._waiting)

    async def start(self) -> None:
        """Begin to admit."""
        self._thread = ThreadPoolExecutor(
            self._lanes,
            thread_name_prefix="model",
            initializer=_lower_priority,
            initargs=(self._nice,),
        )
        self._work = {asyncio.create_task(self._run()) for _ in range(self._lanes)}
        self.open()

    async def close(self) -> None:
        self.shut()
        for lane in self._work:
            lane.cancel()
        if self._work:
            await asyncio.wait(self._work)
        while self._waiting:
            _fail(self._waiting.popleft(), NotReady())
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, ticket: Ticket, pixels: np.ndarray, config: SearchConfig) -> Outcome:
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
            if one.outcome.cancelled():
                with suppress(ValueError):  # it is not in the queue once it is in a batch
                    self._waiting.remove(one)
                    self._observer.queue_depth(len(self._waiting))

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
        assert isinstance(model, LoadedModel)
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
                _fail(batch[0], failure_at(problem))
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


def _lower_priority(nice: int) -> None:
    """Make this thread nicer; elsewhere than on Linux that would be the whole process."""
    if nice and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + nice)


def failure_at(problem: Exception) -> CaptioningFailed:
    """Return what a request is told whose image a model failed at, whatever its network said."""
    failure = CaptioningFailed(f"the model failed at this image: {in_one_line(problem)[:200]}")
    failure.__cause__ = problem
    return failure


def _fail(one: _Waiting, problem: Exception) -> None:
    if not one.outcome.done():
        one.outcome.set_exception(problem)
