"""Back end of a service: what runs its model, in this process or somewhere else.

Routes, admission and decoding are the same for every back end. `local_back_end.py` runs the model
in threads of this process, `ray_back_end.py` asks the replicas of a cluster.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from captioner.captioner import Caption
from captioner.search_config import SearchConfig
from serving.admission import Admission, Ticket
from serving.model import ServedModel


@dataclass(frozen=True, eq=False)
class Outcome:
    """The answer to one submitted image."""

    captions: list[Caption]
    queue_seconds: float
    encode_seconds: float  # of the batch that it was part of, as the next
    search_seconds: float
    batch_size: int
    model: ServedModel


class BatchObserver(Protocol):
    """What counts the events of a batcher; called on the event loop."""

    def queue_depth(self, number: int, /) -> None: ...
    def queue_wait(self, seconds: float, /) -> None: ...
    def batch(self, size: int, /) -> None: ...
    def stage(self, name: str, seconds: float, /) -> None: ...  # "encode", "search"


class Batcher(Admission, ABC):
    """Admits requests, and captions their images in batches."""

    @abstractmethod
    async def submit(self, ticket: Ticket, pixels: np.ndarray, config: SearchConfig) -> Outcome:
        """Return the captions of one decoded image; a cancelled call leaves the queue at once.

        Raises:
            DeadlineExceeded: the ticket's deadline passed first.
            CaptioningFailed: the model failed at this image, also alone.
            ModelChanged: another model runs now than the ticket's.
            NotReady: there is nothing that would caption it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop; who still waits gets `NotReady`, a batch that runs is left to its end."""


class BackEnd(Protocol):
    """Makes the batcher of a service."""

    async def start(
        self, observer: BatchObserver, on_model: Callable[[ServedModel], None]
    ) -> Batcher:
        """Return a batcher that admits requests, once its model is there.

        `on_model` is told of every other model that new requests get later on.

        Raises:
            CaptionerError: there will never be a model; the message says why.
        """

    async def reload(self) -> ServedModel:
        """Put the checkpoint as it is now in the place of the model that new requests get.

        Raises:
            CheckpointError: it is damaged, or not for this back end to change; the old model
                serves on.
        """
