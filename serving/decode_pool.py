"""Uploads are decoded in processes that can be killed, so that a hostile file costs one request."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from captioner.encoder.preprocessing import Preprocessing
from serving.guard import ImageHeader, ImageLimits


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A photograph as the encoder takes it."""

    pixels: Tensor  # uint8 [3, height, width], what `Preprocessing.resize` gives
    header: ImageHeader  # width and height as people see the picture, turned upright
    seconds: float  # of work in the decode process


class DecodePool:
    """A fixed number of decode processes; all methods belong to one event loop."""

    def __init__(
        self,
        *,
        workers: int,
        limits: ImageLimits,
        timeout_seconds: float = 5.0,
        address_space_bytes: int = 1 << 30,
        on_killed: Callable[[], None] = lambda: None,
    ) -> None: ...

    async def start(self) -> None:
        """Start the processes and wait until all are ready."""

    async def close(self) -> None:
        """End the processes; what still waits gets `NotReady`."""

    def healthy(self) -> bool:
        """Say whether a process is there to decode."""
        return False

    def expected_wait_seconds(self) -> float:
        """Return how long an upload that came now would wait for a process."""
        return 0.0

    async def decode(
        self, data: bytes, *, preprocessing: Preprocessing, deadline: float
    ) -> DecodedImage:
        """Return the picture in an upload, resized for the model that `preprocessing` is of.

        Use `ticket.model.captioner.encoder.preprocessing`, so that an upload that meets a change of
        models stays with one of them. `deadline` is on the clock of `loop.time()`.

        Raises:
            ImageRejected: the upload is refused, or cost its process.
            DeadlineExceeded: it could not be decoded in time.
            NotReady: the pool is not started or is closed.
        """
        raise NotImplementedError
