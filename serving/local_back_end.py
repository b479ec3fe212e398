"""Back end whose model runs in threads of this process."""

import asyncio
from collections.abc import Callable

from captioner.engines import engine_for
from serving.back_end import BatchObserver
from serving.batching import MicroBatcher
from serving.model import LoadedModel, ServedModel, load_model
from serving.settings import Settings

CPU_WINDOW_SECONDS, GPU_WINDOW_SECONDS = 0.005, 0.002


class LocalBackEnd:
    """Loads the checkpoint of the settings, and captions on this machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lanes = 0  # batches side by side; the first model's engine decides

    async def start(
        self,
        observer: BatchObserver,
        on_model: Callable[[ServedModel], None],  # noqa: ARG002 - only a reload brings another
    ) -> MicroBatcher:
        """Return the queue before the model, once it is loaded; raise as `load_model`."""
        model = await self.reload()
        batcher = MicroBatcher(
            model,
            max_batch=self._settings.max_batch,
            window_seconds=window_seconds(self._settings),
            queue_size=self._settings.queue_size,
            observer=observer,
            lanes=self.lanes,
            nice=self._settings.model_nice,
        )
        await batcher.start()
        return batcher

    async def reload(self) -> LoadedModel:
        """Load the checkpoint; raise as `load_model`."""
        return await asyncio.to_thread(self.load)

    def load(self) -> LoadedModel:
        """Load the checkpoint, which blocks; raise as `load_model`."""
        settings = self._settings
        folder = settings.checkpoint_folder()
        self.lanes = self.lanes or settings.lanes_for(settings.engine or engine_for(folder))
        threads = max(1, settings.threads_per_worker // self.lanes)
        return load_model(folder, settings.device, settings.engine, threads)


def window_seconds(settings: Settings) -> float:
    """Return how long an image waits at most for others to share its batch."""
    if settings.batch_window_ms is not None:
        return settings.batch_window_ms / 1000
    return CPU_WINDOW_SECONDS if str(settings.device) == "cpu" else GPU_WINDOW_SECONDS
