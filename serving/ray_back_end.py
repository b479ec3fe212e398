"""Back end whose model runs in replicas of a Ray cluster, and what they and the application say.

A caption depends on its request alone, so one whose replica died is asked for again, from another
replica, until its deadline. While a cluster goes from one model to another, replicas of both
answer: each says which model it has where that is not the one that a request was prepared for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import structlog

from captioner.captioner import Caption
from captioner.errors import CheckpointError
from captioner.extras import needing
from captioner.search_config import SearchConfig
from captioner.text import in_one_line
from serving.admission import Ticket
from serving.back_end import Batcher, BatchObserver, Outcome
from serving.errors import (
    CaptioningFailed,
    DeadlineExceeded,
    ModelChanged,
    NotReady,
    Overloaded,
)
from serving.model import ServedModel

with needing("ray", "the service on Ray Serve"):
    from ray.exceptions import RayActorError, RayError
    from ray.serve.exceptions import BackPressureError, RayServeException
    from ray.serve.handle import DeploymentHandle

MOST_REPLICAS = 5  # that one request may lose
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0  # before another is asked

log = structlog.get_logger("serving.ray")


@dataclass(frozen=True, eq=False)
class Reply:
    """What a replica says to one image: the members of `Outcome` but for the model."""

    captions: list[Caption]
    queue_seconds: float
    encode_seconds: float
    search_seconds: float
    batch_size: int


class RayBackEnd:
    """Asks the replicas behind `handle`, which has the methods of `ray_app.Replica`."""

    def __init__(self, handle: "DeploymentHandle[Any]", *, places: int) -> None:
        self._handle = handle
        self._places = places

    async def start(
        self, observer: BatchObserver, on_model: Callable[[ServedModel], None]
    ) -> "RayBatcher":
        """Return a batcher as soon as a replica has said what its model is."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                model: ServedModel = await self._handle.describe.remote()
            except (RayError, RayServeException) as problem:
                log.warning("no replica has a model yet", reason=in_one_line(problem)[:200])
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                return RayBatcher(self._handle, model, self._places, observer, on_model)

    async def reload(self) -> NoReturn:
        """Refuse: it is the cluster that goes from one model to another."""
        raise CheckpointError(
            "on Ray Serve another model comes with another configuration (serve deploy), which is "
            "rolled out without losing a request"
        )


class RayBatcher(Batcher):
    """Admits as many requests as there are places; the replicas behind a handle make batches."""

    def __init__(
        self,
        handle: "DeploymentHandle[Any]",
        model: ServedModel,
        places: int,
        observer: BatchObserver,
        on_model: Callable[[ServedModel], None],
    ) -> None:
        super().__init__(model, places=places)
        self._handle = handle
        self._observer = observer
        self._on_model = on_model
        self._asked = 0  # images that replicas have
        self.open()

    async def submit(self, ticket: Ticket, pixels: np.ndarray, config: SearchConfig) -> Outcome:
        self._count(+1)
        try:
            async with asyncio.timeout_at(ticket.deadline):
                reply = await self._ask(ticket.model.hash, pixels, config)
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._count(-1)
        if isinstance(reply, ServedModel):
            if reply.hash != self.model.hash:
                self.model = reply
                self._on_model(reply)
            raise ModelChanged(reply)
        if isinstance(reply, CaptioningFailed):
            raise reply
        self._observer.queue_wait(reply.queue_seconds)
        return Outcome(**vars(reply), model=ticket.model)

    async def close(self) -> None:
        self.shut()

    async def _ask(
        self, model_hash: str, pixels: np.ndarray, config: SearchConfig
    ) -> Reply | ServedModel | CaptioningFailed:
        """Return what a replica says; one that dies meanwhile is made up for by another."""
        pause = FIRST_PAUSE_SECONDS
        for _ in range(MOST_REPLICAS):
            response = self._handle.caption.remote(model_hash, pixels, config)
            try:
                reply: Reply | ServedModel | CaptioningFailed = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayActorError as problem:  # it died, or its machine is out of reach
                log.warning("a replica was lost", reason=in_one_line(problem)[:200])
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except BackPressureError as full:
                raise Overloaded(
                    "the replicas have as many requests as they take; try again later",
                    max(1, round(full.retry_after_s or 1)),
                ) from full
            except RayServeException as problem:
                raise NotReady("no replica runs the model; try again later") from problem
            else:
                return reply
        raise NotReady("the replicas that were to caption this image ended; try again")

    def _count(self, change: int) -> None:
        self._asked += change
        self._observer.queue_depth(self._asked)
