"""Pool of processes that decode uploads and can be killed: a hostile file fails one request.

A fixed number of processes take uploads in order. If one exceeds its time or crashes, its upload
fails and a new process replaces it. If a process was killed from outside, its upload is tried once
more. When a caller leaves while its upload is being decoded, the process finishes it, which is
cheaper than a new process; an upload that still waits is dropped.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import ToolError
from captioner.sandbox.decode_process import DecodeProcess, ProcessLost, json_bytes
from captioner.sandbox.errors import DeadlineExceeded, ImageCode, ImageRejected, NotReady
from captioner.sandbox.limits import DECODABLE, ImageLimits
from captioner.sandbox.upload_checks import ImageHeader, format_of

START_SECONDS = 60.0  # to import Pillow, on a machine with better things to do
UPLOADS_PER_PROCESS = 2000  # then a fresh one takes over, for what hostile bytes may have left
LONGEST_PAUSE = 5.0  # seconds between attempts to start a process
FIRST_GUESS = 0.02  # seconds that an upload takes
MEMORY_OF_MEAN = 0.1  # weight of the newest upload
COSTLY = "the picture could not be decoded within its limits of time and memory; save it anew"


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A photograph as the encoder takes it."""

    pixels: np.ndarray  # uint8 [height, width, 3], what `Preprocessing.read` gives of the upload
    header: ImageHeader  # width and height as people see the picture, turned upright
    seconds: float  # of work in the decode process


@dataclass(eq=False)
class _Upload:
    data: bytes
    preprocessing: Preprocessing
    deadline: float
    decoded: "asyncio.Future[DecodedImage]"
    is_tried: bool = False


class DecodePool:
    """A fixed number of decode processes, each busy with at most one upload."""

    def __init__(
        self,
        *,
        workers: int,
        limits: ImageLimits,
        timeout_seconds: float = 5.0,
        address_space_bytes: int = 1 << 30,
        on_killed: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._timeout = timeout_seconds
        self._on_killed = on_killed
        self._settings = {
            "limits": asdict(limits),
            "address_space_bytes": address_space_bytes,
            "cpu_seconds": math.ceil(timeout_seconds),
        }
        self._count = workers
        self._is_open = False
        self._processes: set[DecodeProcess] = set()
        self._idle: list[DecodeProcess] = []
        self._lost: set[DecodeProcess] = set()  # dead, but not yet forgotten by the system
        self._waiting: deque[_Upload] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished = 0  # uploads that somebody waits for
        self._mean_seconds = FIRST_GUESS

    async def start(self) -> None:
        """Start the processes and return when all are ready.

        Raises:
            ToolError: one does not start.
        """
        started = await asyncio.gather(
            *(DecodeProcess.start(self._settings, START_SECONDS) for _ in range(self._count)),
            return_exceptions=True,
        )
        whole = [one for one in started if isinstance(one, DecodeProcess)]
        if len(whole) < self._count:
            await asyncio.gather(*(process.end() for process in whole))
            raise ToolError(
                f"{self._count - len(whole)} of {self._count} decode processes ended before they "
                "were ready; `python -m captioner.sandbox.decode_worker < /dev/null` says why"
            )
        self._is_open = True
        for process in whole:
            self._add(process)

    async def close(self) -> None:
        """End the processes; who still waits gets `NotReady`."""
        self._is_open = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._waiting:
            _fail(self._waiting.popleft(), NotReady())
        processes = self._processes | self._lost
        self._processes, self._idle, self._lost = set(), [], set()
        await asyncio.gather(*(process.end() for process in processes))

    def healthy(self) -> bool:
        """Say whether a process is there to decode."""
        return self._is_open and bool(self._processes)

    def process_ids(self) -> list[int]:
        """Return the numbers of the processes that run."""
        return [process.pid for process in self._processes]

    def expected_wait_seconds(self) -> float:
        """Return how long an upload that came now would wait for its pixels."""
        return self._unfinished / self._count * self._mean_seconds

    async def decode(
        self, data: bytes, *, preprocessing: Preprocessing, deadline: float
    ) -> DecodedImage:
        """Return the picture in an upload, resized for the model that `preprocessing` is of.

        Take `ticket.model.preprocessing`, so that an upload that meets a change
        of models stays with one of them. `deadline` is on the clock of `loop.time()`.

        Raises:
            ImageRejected: the upload is refused, or has cost its process.
            DeadlineExceeded: it could not be decoded in time.
            NotReady: the pool is not started or is closed.
        """
        format_of(data, self._limits)
        if not self._is_open:
            raise NotReady()
        loop = asyncio.get_running_loop()
        upload = _Upload(data, preprocessing, deadline, loop.create_future())
        self._waiting.append(upload)
        self._unfinished += 1
        self._dispatch()
        try:
            async with asyncio.timeout_at(deadline):
                return await upload.decoded
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            self._unfinished -= 1
            upload.decoded.cancel()
            upload.data = b""

    def _dispatch(self) -> None:
        """Give waiting uploads to idle processes."""
        now = asyncio.get_running_loop().time()
        while self._idle and self._waiting:
            upload = self._waiting.popleft()
            if upload.decoded.done():
                continue
            if upload.deadline <= now:
                _fail(upload, DeadlineExceeded())
                continue
            self._begin(self._decode(self._idle.pop(), upload))

    async def _decode(self, process: DecodeProcess, upload: _Upload) -> None:
        request = _request_of(upload.preprocessing)
        began = asyncio.get_running_loop().time()
        try:
            decoded = _decoded(*await process.ask(request, upload.data, self._timeout))
        except ImageRejected as refused:
            _fail(upload, refused)
        except ProcessLost:
            self._on_killed()
            await self._refuse_or_retry(process, upload)
            return
        except (ValueError, TypeError, KeyError):
            self._on_killed()
            process.kill()
            _fail(upload, ImageRejected("corrupt_image", COSTLY))
            return
        except asyncio.CancelledError:
            _fail(upload, NotReady())
            raise
        else:
            if not upload.decoded.done():
                upload.decoded.set_result(decoded)
        took = asyncio.get_running_loop().time() - began
        self._mean_seconds += MEMORY_OF_MEAN * (took - self._mean_seconds)
        process.served += 1
        if process.served < UPLOADS_PER_PROCESS:
            self._idle.append(process)
        else:
            process.kill()
        self._dispatch()

    async def _refuse_or_retry(self, process: DecodeProcess, upload: _Upload) -> None:
        """Refuse the upload that cost a process; once it may try another if it may be innocent."""
        if await process.end() and not upload.is_tried:
            upload.is_tried = True
            self._waiting.appendleft(upload)
            self._dispatch()
        else:
            _fail(upload, ImageRejected("corrupt_image", COSTLY))

    def _add(self, process: DecodeProcess) -> None:
        self._processes.add(process)
        self._idle.append(process)
        process.on_lost = self._on_lost
        if process.is_lost:
            self._on_lost(process)
        self._dispatch()

    def _on_lost(self, process: DecodeProcess) -> None:
        self._processes.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        self._lost.add(process)
        if self._is_open:
            self._begin(self._replace(process))

    async def _replace(self, lost: DecodeProcess) -> None:
        """Put a fresh process in the place of one that is gone."""
        await lost.end()
        self._lost.discard(lost)
        pause = 0.1
        while True:
            try:
                process = await DecodeProcess.start(self._settings, START_SECONDS)
            except ProcessLost:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._add(process)
                return

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@lru_cache(8)
def _request_of(preprocessing: Preprocessing) -> bytes:
    return json_bytes({"preprocessing": preprocessing.to_json()})


def _decoded(answer: dict[str, Any], pixels: bytearray) -> DecodedImage:
    """Return what an answer says.

    Raises:
        ImageRejected: it says that the upload is refused.
        ValueError, TypeError, KeyError: it is not as agreed.
    """
    if "code" in answer:
        code, detail = answer["code"], answer["detail"]
        if code not in get_args(ImageCode) or not isinstance(detail, str):
            raise ValueError
        raise ImageRejected(code, "".join(one for one in detail[:300] if " " <= one <= "~"))
    width, height = map(_whole, answer["pixels"])
    header = ImageHeader(answer["format"], _whole(answer["width"]), _whole(answer["height"]))
    seconds = answer["seconds"]
    if header.format not in DECODABLE or not isinstance(seconds, float):
        raise ValueError
    decoded = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    return DecodedImage(decoded, header, seconds)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value < 1 << 20:
        raise ValueError
    return value


def _fail(upload: _Upload, problem: Exception) -> None:
    if not upload.decoded.done():
        upload.decoded.set_exception(problem)
