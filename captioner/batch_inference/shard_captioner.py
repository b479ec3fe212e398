"""The captions of a shard: read, decoded, captioned, written. Every engine does this and no other.

While the model captions one batch, the decode processes work on the next ones.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from captioner.allocator import keep_freed_memory
from captioner.batch_inference.decoders import Decoders
from captioner.batch_inference.reading import Record, read_shard
from captioner.batch_inference.results import Row, ShardSummary, write_part
from captioner.batch_inference.sources import Shard
from captioner.batch_inference.storage import OutputFolder
from captioner.captioner import Caption, load
from captioner.errors import CheckpointError
from captioner.prefetch import prefetched
from captioner.sandbox.decode_pool import DecodedImage
from captioner.sandbox.errors import DeadlineExceeded, ImageRejected
from captioner.search_config import SearchConfig

BATCHES_AHEAD = 2  # that are being decoded while one is captioned
READ_AHEAD = 16  # photographs


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What a process needs to caption shards; it can be sent to another machine."""

    model: str  # folder
    model_hash: str
    out: str  # folder, or a URL
    search: SearchConfig
    device: str = "cpu"
    threads: int | None = 1
    decoders: int = 1  # decode processes
    batch_size: int = 16


class Decoded(NamedTuple):
    """A photograph ready for the model, or what is wrong with it."""

    path: str
    pixels: np.ndarray | None = None  # uint8 [height, width, 3]
    width: int | None = None
    height: int | None = None
    error: str | None = None
    seconds: float = 0.0  # of decoding


class ShardCaptioner:
    """A model and its decode processes; a context manager."""

    def __init__(self, settings: ShardSettings) -> None:
        """Load the model and start the processes.

        Raises:
            CheckpointError: the model is missing, damaged, or another than the job began with.
            OptionError: there is no such device here.
            ToolError: a package is missing, or a decode process does not start.
        """
        keep_freed_memory()
        self._settings = settings
        self._out = OutputFolder(settings.out)
        self._captioner = load(Path(settings.model), settings.device, None, settings.threads)
        if self._captioner.hash != settings.model_hash:
            raise CheckpointError(
                f"{settings.model} is not the model that this job began with; it was replaced "
                "meanwhile: restore it, or begin anew with another --out"
            )
        self._decoders = Decoders(settings.decoders, self._captioner.preprocessing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.close()

    def caption(
        self, shard: Shard, on_batch: Callable[[int], None] = lambda _: None
    ) -> ShardSummary:
        """Write the captions of a shard; `on_batch` hears of each batch how many it had.

        Raises:
            DataError: the list of its photographs cannot be read.
            StorageError: the captions cannot be written.
        """
        rows: list[Row] = []
        seconds = dict.fromkeys(("decode", "encode", "search"), 0.0)
        decoded = decode_shard(shard, self._decoders, BATCHES_AHEAD * self._settings.batch_size)
        with closing(decoded):
            for batch in _batches(decoded, self._settings.batch_size):
                rows += self._caption_batch(batch, seconds)
                on_batch(len(batch))
        return write_part(self._out, shard.number, rows, self._captioner.hash, seconds)

    def _caption_batch(self, batch: list[Decoded], seconds: dict[str, float]) -> Iterator[Row]:
        found = iter(
            self._captions([one.pixels for one in batch if one.pixels is not None], seconds)
        )
        for one in batch:
            seconds["decode"] += one.seconds
            if one.pixels is None:
                yield Row(one.path, error=one.error)
            else:
                best = next(found)
                size = one.width, one.height
                yield Row(one.path, best.text, best.log_prob, best.confidence, *size)

    def _captions(self, pixels: list[np.ndarray], seconds: dict[str, float]) -> list[Caption]:
        if not pixels:
            return []
        began = time.monotonic()
        features = self._captioner.features_of_pixels(pixels)
        encoded = time.monotonic()
        found = self._captioner.captions_of_features(features, self._settings.search)
        seconds["encode"] += encoded - began
        seconds["search"] += time.monotonic() - encoded
        return [captions[0] for captions in found]


def decode_shard(shard: Shard, decoders: Decoders, ahead: int) -> Generator[Decoded]:
    """Yield every photograph of a shard, in order, while up to `ahead` of the next are decoded."""
    waiting: deque[tuple[str, Future[DecodedImage] | str]] = deque()
    with closing(prefetched(read_shard(shard), READ_AHEAD)) as records:
        for record in records:
            waiting.append((record.path, _begin(record, decoders)))
            if len(waiting) > ahead:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _begin(record: Record, decoders: Decoders) -> "Future[DecodedImage] | str":
    return record.error or decoders.decode(record.data)


def _finished(path: str, decoding: "Future[DecodedImage] | str") -> Decoded:
    if isinstance(decoding, str):
        return Decoded(path, error=decoding)
    try:
        image = decoding.result()
    except ImageRejected as refused:
        return Decoded(path, error=f"{refused.code}: {refused.detail}")
    except DeadlineExceeded:
        return Decoded(path, error="not_decoded: no decode process came to it within an hour")
    header = image.header
    return Decoded(path, image.pixels, header.width, header.height, seconds=image.seconds)


def _batches(decoded: Iterator[Decoded], size: int) -> Iterator[list[Decoded]]:
    batch: list[Decoded] = []
    for one in decoded:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
