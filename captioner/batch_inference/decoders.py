"""Decode processes for a program without an event loop: bytes in, pixels as a future.

They are those of the service (`captioner.sandbox`), with its limits: a hostile file costs a row and
not the job.
"""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import Any, Self

from captioner.encoder.preprocessing import Preprocessing
from captioner.sandbox.decode_pool import DecodedImage, DecodePool
from captioner.sandbox.limits import DECODABLE, ImageLimits

PATIENCE = 3600.0  # seconds; the pool has limits of its own for what a picture may compute


class Decoders:
    """A context manager around so many decode processes."""

    def __init__(self, count: int, preprocessing: Preprocessing) -> None:
        """Start them.

        Raises:
            ToolError: one does not start.
        """
        self._preprocessing = preprocessing
        # Not the loop of a policy, which another library may have set: that of Ray is uvloop.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = Thread(target=self._loop.run_forever, name="decoders", daemon=True)
        self._thread.start()
        self._pool = DecodePool(workers=count, limits=ImageLimits(formats=DECODABLE))
        try:
            self._submit(self._pool.start()).result()
        except BaseException:
            self._end()
            raise

    def decode(self, data: bytes) -> "Future[DecodedImage]":
        """Return the future of a picture, resized for the model.

        Its result raises `ImageRejected` for what is no picture, or beyond the limits.
        """
        deadline = self._loop.time() + PATIENCE
        decoding = self._pool.decode(data, preprocessing=self._preprocessing, deadline=deadline)
        return self._submit(decoding)

    def close(self) -> None:
        self._submit(self._pool.close()).result()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
