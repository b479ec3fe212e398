"""Writer of a feature store: decode, encode, write, chunk by chunk.

Threads decode images ahead of the encoder. A chunk enters the journal only after its bytes have
reached the disk. A broken image becomes a row of zeros that is marked as missing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch

from captioner.data.augmented_images import AugmentedCopy
from captioner.data.images import open_image
from captioner.encoder.interface import Encoder
from captioner.encoder.store_record import FEATURES, Record
from captioner.errors import EncoderError, ImageError, StorageError
from captioner.prefetch import prefetched
from captioner.processes import Processes
from captioner.progress import Progress

BATCHES_AHEAD = 3
NAMED_AT_MOST = 20  # broken images; the manifest names all
_FLOAT16_MAX = torch.finfo(torch.float16).max

Decoded = np.ndarray | str  # the pixels, or in one line why there are none


class _Written(NamedTuple):
    """A chunk that has reached the disk."""

    chunk: int
    digest: str
    missing: dict[int, str]


class ImageFile(Protocol):
    """An image of a data set, as far as a store cares."""

    @property
    def path(self) -> Path: ...

    @property
    def filename(self) -> str: ...


def write_chunks(
    record: Record,
    chunks: Sequence[int],
    encoder: Encoder,
    images: Sequence[ImageFile],
    *,
    mirrored: bool,
    copy: AugmentedCopy | None,
    batch_size: int,
    workers: int,
    progress: Progress,
    announce: Callable[[str], None],
    processes: Processes,
) -> None:
    """Encode the images of the chunks and write their features.

    Of several processes each writes every so manieth chunk, and the first one the journal.

    Raises:
        StorageError: the disk is full; what was written before is kept.
        EncoderError: the encoder gives something else than numbers.
    """

    def decode(row: int) -> Decoded:
        try:
            if copy is None:
                pixels = encoder.preprocessing.read(images[row].path)
            else:
                image = open_image(images[row].path, encoder.preprocessing.least_size)
                pixels = encoder.preprocessing.resize(copy.of(image, images[row].filename))
        except ImageError as problem:
            return str(problem)
        return pixels[:, ::-1] if mirrored else pixels

    def batches(chunk: int) -> list[range]:
        rows = record.rows(chunk)
        return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def write(chunk: int, file: BinaryIO) -> _Written:
        features, missing = [], {}
        for rows in batches(chunk):
            found = dict(zip(rows, next(decoded), strict=True))
            missing.update({row: one for row, one in found.items() if isinstance(one, str)})
            features.append(_encode(encoder, list(found.values())))
            progress.advance(len(rows))
        data = np.concatenate(features).reshape(-1).view(np.uint8).data
        file.seek(record.offset(chunk))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return _Written(chunk, hashlib.sha256(data).hexdigest(), missing)

    own = chunks[processes.rank :: processes.size]
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    decoded = prefetched(
        (pool.map(decode, rows) for chunk in own for rows in batches(chunk)), BATCHES_AHEAD
    )
    try:
        with _opened_for_writing(record) as file:
            for start in range(0, len(chunks), processes.size):
                number = start // processes.size
                written = write(own[number], file) if number < len(own) else None
                for rank, one in enumerate(processes.gather(written)):
                    if one is None:
                        continue
                    for count, reason in enumerate(one.missing.values(), len(record.missing) + 1):
                        _name_broken(reason, count, announce)
                    record.add(*one, in_journal=processes.is_first)
                    if rank != processes.rank:
                        progress.advance(len(record.rows(one.chunk)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        decoded.close()


def _encode(encoder: Encoder, found: Sequence[Decoded]) -> np.ndarray:
    """Return the features as float16 [images, positions, features], zeros for broken images."""
    features = torch.zeros(len(found), encoder.grid**2, encoder.feature_size)
    readable = [place for place, pixels in enumerate(found) if not isinstance(pixels, str)]
    if readable:
        pixels = [image for image in found if not isinstance(image, str)]
        features[readable] = encoder.encode(pixels).grid.cpu()
    if not features.isfinite().all():
        raise EncoderError(
            f"encoder {encoder.config.name} gives values that are no numbers; its weights "
            f"({encoder.config.weights}) are damaged: give others with --encoder-weights"
        )
    return features.clamp_(-_FLOAT16_MAX, _FLOAT16_MAX).half().numpy()


def _name_broken(reason: str, count: int, announce: Callable[[str], None]) -> None:
    if count <= NAMED_AT_MOST:
        announce(f"skipped: {reason}")
    elif count == NAMED_AT_MOST + 1:
        announce("skipped: further images, which the manifest of the feature store names")


@contextmanager
def _opened_for_writing(record: Record) -> Iterator[BinaryIO]:
    """Yield the file of features at its full size, its unwritten parts taking no space yet."""
    path = record.folder / FEATURES
    try:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            file.truncate(record.file_bytes)
            file.write(record.header)
            yield file
    except OSError as problem:
        raise StorageError(
            f"{path} could not be written: {problem.strerror}; what was written before is kept: "
            "free some space and run it again, it goes on from there"
        ) from problem
