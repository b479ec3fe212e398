"""The queue before the model: who gets in, who is batched with whom, who is dropped."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from captioner.captioner import Caption
from serving.model import CaptionOptions, LoadedModel


@dataclass(frozen=True, eq=False)
class Outcome:
    """The answer to one submitted image."""

    captions: list[Caption]
    queue_seconds: float
    encode_seconds: float  # of the batch that it was part of
    search_seconds: float
    batch_size: int
    model: LoadedModel


class BatchObserver(Protocol):
    """Who counts what happens; called on the event loop."""

    def queue_depth(self, images: int) -> None: ...
    def queue_wait(self, seconds: float) -> None: ...
    def batch(self, size: int) -> None: ...
    def stage(self, name: str, seconds: float) -> None: ...  # "encode", "search"
    def cancelled(self) -> None: ...


class Ticket:
    """The right to be captioned: places, a deadline and the model. Release it by `with`."""

    model: LoadedModel  # what this request runs on, also if models are swapped meanwhile
    deadline: float  # on the clock of loop.time()
    images: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the places back; a second time does nothing."""


class MicroBatcher:
    """One queue and one thread for the model; all methods belong to one event loop."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_batch: int = 8,
        window_seconds: float,
        queue_size: int,
        observer: BatchObserver,
    ) -> None: ...

    @property
    def model(self) -> LoadedModel:
        """The model that new requests get."""
        raise NotImplementedError

    @property
    def queue_depth(self) -> int:
        """How many images wait for the model."""
        return 0

    @property
    def admitted(self) -> int:
        """How many places are held: uploading, decoding, waiting or being captioned."""
        return 0

    def expected_wait_seconds(self) -> float:
        """Return how long the images that hold a place will keep the model busy."""
        return 0.0

    async def start(self) -> None:
        """Begin to admit."""

    async def drain(self, timeout_seconds: float) -> bool:
        """Admit nobody any more, and return whether all who were admitted left in time."""
        return True

    async def close(self) -> None:
        """Stop; whoever still waits gets `NotReady`."""

    def admit(self, deadline: float, *, images: int = 1, ahead_seconds: float = 0.0) -> Ticket:
        """Return a ticket for `images` places, or refuse at once.

        `ahead_seconds` is the wait expected before the model, `DecodePool.expected_wait_seconds`.

        Raises:
            Overloaded: no place is free, or the expected wait ends after the deadline.
            DeadlineExceeded: the deadline has passed.
            NotReady: not started, draining or closed.
        """
        raise NotImplementedError

    async def submit(self, ticket: Ticket, pixels: Tensor, options: CaptionOptions) -> Outcome:
        """Return the captions of one decoded image; a cancelled call leaves the queue at once.

        Raises:
            DeadlineExceeded: the ticket's deadline passed first.
            CaptioningFailed: the model failed at this image, also alone.
            NotReady: the batcher was closed.
        """
        raise NotImplementedError

    async def swap(self, model: LoadedModel) -> None:
        """Give new requests another model; those with a ticket finish on theirs."""
