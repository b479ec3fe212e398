"""Admission: which requests are accepted, whatever runs the model.

A request that cannot be answered in time is refused before its body is read. Any other takes a
ticket when its body is complete, so slow uploads block nobody. The number of requests that are
decoding, waiting or being captioned is limited, and so is the time they will take. Everything
belongs to one event loop.
"""

import asyncio
import math
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from serving.errors import DeadlineExceeded, NotReady, Overloaded

if TYPE_CHECKING:
    from serving.model import ServedModel

LONGEST_RETRY = 60  # seconds


class Ticket(AbstractContextManager["Ticket"]):
    """The right to be captioned: places, a deadline and the model. Release it by `with`."""

    def __init__(
        self, admission: "Admission | None", model: "ServedModel", deadline: float, images: int
    ) -> None:
        self.model = model  # what this request runs on, also if models are swapped meanwhile
        self.deadline = deadline  # on the clock of loop.time()
        self.images = images
        self._admission = admission

    def __exit__(self, *_: object) -> None:
        self.release()

    def on(self, model: "ServedModel") -> "Ticket":
        """Return the same right on another model; the places stay with this ticket."""
        return Ticket(None, model, self.deadline, self.images)

    def release(self) -> None:
        """Give the places back; a second time does nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave(self.images)


class Admission:
    """Places for requests, and the time that those who hold one will take.

    `seconds_per_image` is what the model takes for one, where somebody measures it; `lanes` is how
    many it captions side by side.
    """

    def __init__(
        self,
        model: "ServedModel",
        *,
        places: int,
        seconds_per_image: float = 0.0,
        lanes: int = 1,
    ) -> None:
        self.model = model  # that new requests get; those with a ticket finish on theirs
        self.admitted = 0  # places that are held: decoding, waiting or being captioned
        self._places = places
        self._seconds_per_image = seconds_per_image
        self._lanes = lanes
        self._arriving = 0  # requests that take their place in this turn of the event loop
        self._is_open = False
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self) -> None:
        """Begin to admit."""
        self._is_open = True

    def shut(self) -> None:
        """Admit nobody any more."""
        self._is_open = False

    def expected_wait_seconds(self) -> float:
        """Return how long the images that hold a place will keep the model busy."""
        held = self.admitted + self._arriving
        return held * self._seconds_per_image / self._lanes

    async def drain(self, timeout_seconds: float) -> bool:
        """Admit nobody any more, and return whether all who were admitted left in time."""
        self.shut()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._empty.wait()
        return self._empty.is_set()

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

    def expect(self) -> None:
        """Count one more place as taken, by a request that is about to ask for it.

        Headers of many requests can come in one turn of the event loop, before any of these
        requests runs. The next turn begins with running them, so the count lasts until then.
        """
        if not self._arriving:
            asyncio.get_running_loop().call_soon(self._forget_arrivals)
        self._arriving += 1

    def _forget_arrivals(self) -> None:
        self._arriving = 0

    def why_full(
        self, left_seconds: float, *, images: int = 1, ahead_seconds: float = 0.0
    ) -> Overloaded | None:
        """Return why a request with so much time left finds no room, or None.

        Where nobody holds a place there is room, also for more images than there are places: else
        they would never find any.
        """
        wait = ahead_seconds + self.expected_wait_seconds()
        held = self.admitted + self._arriving
        if held and held + images > self._places:
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

    def _leave(self, images: int) -> None:
        self.admitted -= images
        if not self.admitted:
            self._empty.set()


def _retry_after(wait: float) -> int:
    return min(max(1, math.ceil(wait)), LONGEST_RETRY)
