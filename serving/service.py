"""Life of a service: its model, queue and decoding processes are started, replaced and ended.

`start` returns at once and the model is loaded in the background, so that health can be asked from
the first moment. Routes use the queue (`batcher`) and the decoding processes (`pool`) of this
object.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import structlog

from captioner.errors import CaptionerError, CheckpointError
from captioner.sandbox.decode_pool import DecodePool
from captioner.sandbox.limits import FORMATS, ImageLimits
from serving.admission import Ticket
from serving.back_end import BackEnd, Batcher
from serving.connection.refusals import Refusals
from serving.errors import NotReady, Overloaded
from serving.local_back_end import LocalBackEnd
from serving.model import ServedModel
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

Part = TypeVar("Part")

log: "BoundLogger" = structlog.get_logger("serving")


class Service:
    """What the routes of one application share.

    Without another `back_end`, the model runs in threads of this process. With `loads_first`,
    `start` waits for the model: others serve meanwhile. `reload_others` tells the other workers to
    load the checkpoint again.
    """

    def __init__(
        self,
        settings: Settings,
        back_end: BackEnd | None = None,
        *,
        loads_first: bool = False,
        reload_others: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.refusals = Refusals(self.metrics)
        self._back_end = back_end or LocalBackEnd(settings)
        self._loads_first = loads_first
        self._reload_others = reload_others
        self.failure: CaptionerError | None = None  # why there will never be a model
        self._is_draining = False
        self._model: ServedModel | None = None
        self._batcher: Batcher | None = None
        self._pool: DecodePool | None = None
        self._loading: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """Begin to load the model; until it is there, `why_not_ready` says so."""
        self._loading = asyncio.create_task(self._load())
        if self._loads_first:
            await asyncio.wait([self._loading])

    def begin_draining(self) -> None:
        """Refuse what is new from now on."""
        self._is_draining = True

    async def stop(self) -> None:
        """Finish what was accepted, then end the decoding processes and the model's thread."""
        self.begin_draining()
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._batcher is not None:
            await self._batcher.drain(self.settings.drain_seconds)
            await self._batcher.close()
        if self._pool is not None:
            await self._pool.close()

    @property
    def model(self) -> ServedModel:
        """The model that is served now; raises NotReady where there is none yet."""
        return self._there(self._model)

    def why_not_ready(self) -> str | None:
        """Return why requests would be refused now, or None."""
        if self._is_draining:
            return "the service is shutting down"
        if self.failure is not None:
            return f"the model could not be loaded: {self.failure}"
        if self._model is None or self._pool is None:
            return "the model is being loaded"
        if not self._pool.healthy():
            return "no process is there to decode images; new ones are being started"
        return None

    @property
    def batcher(self) -> Batcher:
        """The queue before the model; raises NotReady where there is none yet."""
        return self._there(self._batcher)

    @property
    def pool(self) -> DecodePool:
        """The decoding processes; raises NotReady where there are none yet."""
        return self._there(self._pool)

    def _there(self, part: Part | None) -> Part:
        if part is None:
            raise NotReady(self.why_not_ready() or "the model is being loaded")
        return part

    def check_room(self, deadline: float) -> None:
        """Raise where a request would be refused now, before anything of it is paid for.

        Raises:
            Overloaded: there is no place, or the wait would be too long.
            NotReady: the service is starting or shutting down.
        """
        if self._is_draining:
            raise NotReady("the service is shutting down")
        self.batcher.check(deadline, ahead_seconds=self.pool.expected_wait_seconds())

    def why_full(self, seconds: float) -> Overloaded | None:
        """Return why a request with so many seconds left finds no room now, or None.

        While there is no model, or never again, it is None: then that is said elsewhere.
        """
        if self._is_draining or self._batcher is None or self._pool is None:
            return None
        ahead = self._pool.expected_wait_seconds()
        return self._batcher.why_full(seconds, ahead_seconds=ahead)

    def expect(self) -> None:
        """Count a request that will ask for its place at once, as `Admission.expect` does."""
        if self._batcher is not None:
            self._batcher.expect()

    def admit(self, deadline: float, *, images: int = 1) -> Ticket:
        """Return places in the queue for a request whose body is there; raise as `check_room`.

        A request that came before the end began is still let in. Without a process to decode, for
        a moment, requests wait: that costs them less than a 503.
        """
        ahead = self.pool.expected_wait_seconds()
        return self.batcher.admit(deadline, images=images, ahead_seconds=ahead)

    async def reload(self, *, everywhere: bool = False) -> ServedModel:
        """Load the checkpoint beside the model that serves, then swap between two batches.

        With `everywhere` the other workers do the same afterwards.

        Raises:
            CheckpointError: it is damaged; the old model serves on.
            NotReady: there is nothing to replace yet.
        """
        async with self._reloading:
            batcher, old = self.batcher, self.model
            try:
                new = await self._back_end.reload()
            except CaptionerError as problem:
                log.error("reload failed", reason=str(problem), serving=old.hash)
                raise CheckpointError(f"{problem}; the old model serves on") from problem
            batcher.model = new
            self._use(new)
        if everywhere and self._reload_others is not None:
            self._reload_others()
        return new

    async def _load(self) -> None:
        settings = self.settings
        try:
            self._batcher = await self._back_end.start(self.metrics, self._use)
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
            self._use(self._batcher.model)
        except CaptionerError as problem:
            self.failure = problem
            log.error("start failed", reason=str(problem))
        except Exception as problem:
            self.failure = CaptionerError(f"{type(problem).__name__}: {problem}")
            log.exception("start failed")

    def _use(self, model: ServedModel) -> None:
        old, self._model = self._model, model
        before = None if old is None else (old.name, old.hash)
        self.metrics.serve_model(model.name, model.hash, instead_of=before)
        log.info(
            "model loaded",
            name=model.name,
            hash=model.hash,
            folder=str(model.folder),
            **model.engine,
        )

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
