"""The service behind the routes: the model, its queue, the decoding processes, and their lives.

`start` returns at once and the model is loaded in the background, so that health can be asked from
the first moment. `caption` is the path of one image: decode, queue, search.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from captioner.checkpoint_folders import find_checkpoint, newest_checkpoint
from captioner.errors import CaptionerError, CheckpointError
from serving.batching import MicroBatcher, Outcome, Ticket
from serving.errors import NotReady
from serving.images.decode_pool import DecodedImage, DecodePool
from serving.images.upload_checks import ImageLimits
from serving.model import CaptionOptions, LoadedModel, load_model
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from serving.telemetry.tracing import note, stage

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

RUNS = Path("runs")
CPU_WINDOW_SECONDS, GPU_WINDOW_SECONDS = 0.005, 0.002
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

log: "BoundLogger" = structlog.get_logger("serving")


@dataclass(frozen=True)
class Captioned:
    """An image with its captions."""

    image: DecodedImage
    outcome: Outcome


class Service:
    """What the routes of one application share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: CaptionerError | None = None  # why there will never be a model
        self.is_draining = False
        self.loads_first = False  # others serve meanwhile, so that nobody need ask this one
        self.reload_elsewhere: Callable[[], None] = lambda: None  # in the other workers
        self._model: LoadedModel | None = None
        self._batcher: MicroBatcher | None = None
        self._pool: DecodePool | None = None
        self._loading: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """Begin to load the model; until it is there, `why_not_ready` says so."""
        self._loading = asyncio.create_task(self._load())
        if self.loads_first:
            await asyncio.wait([self._loading])

    async def stop(self) -> None:
        """Finish what was accepted, then end the decoding processes and the model's thread."""
        self.is_draining = True
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._batcher is not None:
            await self._batcher.drain(self.settings.drain_seconds)
            await self._batcher.close()
        if self._pool is not None:
            await self._pool.close()

    @property
    def model(self) -> LoadedModel:
        """The model that is served now.

        Raises:
            NotReady: there is none yet.
        """
        if self._model is None:
            raise NotReady(self.why_not_ready() or "the model is being loaded")
        return self._model

    def why_not_ready(self) -> str | None:
        """Return why requests would be refused now, or None."""
        if self.is_draining:
            return "the service is shutting down"
        if self.failure is not None:
            return f"the model could not be loaded: {self.failure}"
        if self._model is None or self._pool is None:
            return "the model is being loaded"
        if not self._pool.healthy():
            return "no process is there to decode images; new ones are being started"
        return None

    def check_room(self, deadline: float) -> None:
        """Raise where a request would be refused now, before anything of it is paid for.

        Raises:
            Overloaded: there is no place, or the wait would be too long.
            NotReady: the service is starting or shutting down.
        """
        if self.is_draining or self._batcher is None or self._pool is None:
            raise NotReady(self.why_not_ready() or "the model is being loaded")
        self._batcher.check(deadline, ahead_seconds=self._pool.expected_wait_seconds())

    def admit(self, deadline: float, *, images: int = 1) -> Ticket:
        """Return places in the queue for a request whose body is there; raise as `check_room`.

        Whoever came before the end began is still let in.
        """
        if self._batcher is None or self._pool is None:
            raise NotReady("the model is being loaded")
        # Without a process to decode, for a moment, requests wait: that costs them less than a 503.
        ahead = self._pool.expected_wait_seconds()
        return self._batcher.admit(deadline, images=images, ahead_seconds=ahead)

    async def caption(self, ticket: Ticket, data: bytes, options: CaptionOptions) -> Captioned:
        """Return the captions of one image in a file's bytes.

        Raises:
            ImageRejected: it is no image that may be decoded.
            DeadlineExceeded: there was not enough time.
        """
        assert self._pool is not None
        assert self._batcher is not None
        self.metrics.upload_bytes.observe(len(data))
        preprocessing = ticket.model.captioner.preprocessing
        with stage("decode"):
            image = await self._pool.decode(
                data, preprocessing=preprocessing, deadline=ticket.deadline
            )
        self.metrics.stage("decode", image.seconds)
        with stage("model"):
            outcome = await self._batcher.submit(ticket, image.pixels, options)
            note(
                batch_size=outcome.batch_size,
                queue_seconds=outcome.queue_seconds,
                encode_seconds=outcome.encode_seconds,
                search_seconds=outcome.search_seconds,
            )
        return Captioned(image, outcome)

    async def reload(self) -> LoadedModel:
        """Load the checkpoint beside the model that serves, then swap between two batches.

        Raises:
            CheckpointError: it is damaged; the old model serves on.
            NotReady: there is nothing to replace yet.
        """
        if self._batcher is None:
            raise NotReady(self.why_not_ready() or "the model is being loaded")
        async with self._reloading:
            old = self.model
            try:
                new = await asyncio.to_thread(self._load_checkpoint)
            except CaptionerError as problem:
                log.error("reload failed", reason=str(problem), serving=old.hash)
                raise CheckpointError(f"{problem}; the old model serves on") from problem
            await self._batcher.swap(new)
            self._use(new)
            return new

    async def _load(self) -> None:
        settings = self.settings
        try:
            model = await asyncio.to_thread(self._load_checkpoint)
            is_cpu = str(settings.device) == "cpu"
            window = CPU_WINDOW_SECONDS if is_cpu else GPU_WINDOW_SECONDS
            if settings.batch_window_ms is not None:
                window = settings.batch_window_ms / 1000
            batcher = MicroBatcher(
                model,
                max_batch=settings.max_batch,
                window_seconds=window,
                queue_size=settings.queue_size,
                observer=self.metrics,
            )
            await batcher.start()
            self._batcher = batcher
            pool = DecodePool(
                workers=settings.decoders_per_worker,
                limits=self.image_limits,
                timeout_seconds=settings.decode_timeout_seconds,
                address_space_bytes=settings.decode_memory_bytes,
                on_killed=self.metrics.decoders_killed.inc,
            )
            try:
                await pool.start()
            except BaseException:
                await pool.close()
                raise
            self._pool = pool
            self._use(model)
        except CaptionerError as problem:
            self.failure = problem
            log.error("start failed", reason=str(problem))
        except Exception as problem:
            self.failure = CaptionerError(f"{type(problem).__name__}: {problem}")
            log.exception("start failed")

    def _load_checkpoint(self) -> LoadedModel:
        import torch

        from captioner.allocator import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(self.settings.threads_per_worker)
        folder = self.settings.checkpoint or newest_checkpoint(RUNS)
        return load_model(find_checkpoint(folder), self.settings.device)

    def _use(self, model: LoadedModel) -> None:
        old, self._model = self._model, model
        before = None if old is None else (old.name, old.hash)
        self.metrics.serve_model(model.name, model.hash, instead_of=before)
        log.info("model loaded", name=model.name, hash=model.hash, folder=str(model.folder))

    @property
    def image_limits(self) -> ImageLimits:
        """What may be decoded here."""
        settings = self.settings
        return ImageLimits(
            formats=(*FORMATS, "AVIF") if settings.avif else FORMATS,
            pixels=settings.pixel_limit,
            side=settings.side_limit,
            scans=settings.scan_limit,
            scan_pixels=settings.scan_pixel_limit,
            text_bytes=settings.text_limit_bytes,
        )
