"""Feature store: the grid features of a data set's images, computed once and kept on disk.

The store is a memory-mapped file of float16 with one row per image. The name of its folder follows
from the encoder, its weights, the preprocessing and the list of images, so the same features are
found again and others are never mistaken for them. A killed write is resumed, and damage is found
by hashes and repaired.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from platformdirs import user_cache_path

from captioner.data.augmented_images import AugmentedCopy
from captioner.encoder.interface import Encoder
from captioner.encoder.store_record import FEATURES, Record, locked
from captioner.encoder.store_writer import ImageFile, write_chunks
from captioner.errors import DataError, StorageError
from captioner.features import Features
from captioner.processes import Processes
from captioner.progress import Progress

CHUNK_BYTES = 1 << 24  # about what is lost by a kill, and what one hash covers
_ROUNDS = 3  # of writing and reading back, before the disk is given up

Announce = Callable[[str], None]


class FeatureStore:
    """Grid features of a list of images, read by their places in that list."""

    def __init__(self, record: Record, images: Sequence[ImageFile]) -> None:
        self.folder = record.folder
        self.missing = frozenset(record.missing)  # places of images that could not be read
        self._record = record
        self._images = images
        path, offset = record.folder / FEATURES, len(record.header)
        self._features = np.asarray(np.memmap(path, np.float16, "r", offset, record.shape))

    @classmethod
    def open(
        cls,
        folder: Path | None,
        encoder: Encoder,
        images: Sequence[ImageFile],
        *,
        mirrored: bool = False,
        copy: AugmentedCopy | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        progress: bool = False,
        announce: Announce = lambda _: None,
        verify: bool = False,
        processes: Processes | None = None,
    ) -> Self:
        """Return the store of these features below `folder`, written now as far as it is not there.

        Without `folder` it lies in the user's cache. `mirrored` swaps left and right of every
        image, `copy` changes them. `batch_size` and `workers` (threads that decode) change nothing
        but the speed. `verify` reads the whole store and writes damaged parts again; without it a
        complete store is only looked at for its size. Several `processes` that call this together
        each write a part of it, on a file system that all of them see.

        Raises:
            DataError: there is no image, or none that can be read.
            StorageError: the features do not fit on the disk, or it cannot be written to.
        """
        processes = processes or Processes()
        batch_size = batch_size or (64 if next(encoder.parameters()).is_cuda else 8)
        record = _record(
            folder or user_cache_path("captioner") / "features",
            encoder,
            images,
            mirrored,
            copy,
            batch_size,
        )
        try:
            record.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StorageError(
                f"the feature store {record.folder} cannot be made: {problem.strerror}; give "
                "another folder with --feature-store"
            ) from problem

        def write() -> None:
            if processes.is_first:
                _announce_size(record, encoder, announce)
                record.begin()
            done = sum(len(record.rows(chunk)) for chunk in record.hashes)
            with Progress(
                len(images), "features", unit="images", enabled=progress, initial=done
            ) as bar:
                write_chunks(
                    record,
                    [chunk for chunk in record.chunks if chunk not in record.hashes],
                    encoder,
                    images,
                    mirrored=mirrored,
                    copy=copy,
                    batch_size=batch_size,
                    workers=workers or min(8, os.cpu_count() or 1),
                    progress=bar,
                    announce=announce,
                    processes=processes,
                )

        record.load()
        if any(processes.gather(verify or not record.is_finished)):
            with locked(record.folder, announce) if processes.is_first else nullcontext():
                if processes.is_first:
                    record.load()  # another process may have finished it meanwhile
                record.known = processes.share(record.known)
                if verify or not record.is_finished:
                    _complete(record, write, announce, processes)
                _check_that_it_is_seen(record)
        if len(record.missing) == len(images):
            raise DataError(
                f"none of the {len(images):,} images can be read (first: {record.missing[0]})"
            )
        text = f"{len(images):,} images, {_size(record.file_bytes)}, {record.folder}"
        if record.missing:
            first = images[min(record.missing)].filename
            text += f"; {len(record.missing):,} broken images are left out (first: {first})"
        announce(f"feature store: {text}")
        return cls(record, images)

    def __len__(self) -> int:
        return len(self._features)

    def rows(self, indices: Sequence[int]) -> Features:
        """Return the features of some images in float32.

        Raises:
            DataError: one of them is missing.
        """
        gathered = np.empty((len(indices), *self._features.shape[1:]), np.float16)
        for place in np.argsort(np.asarray(indices, dtype=np.int64)):  # in the order on the disk
            index = indices[place]
            if index in self.missing:
                raise DataError(
                    f"{self._images[index].filename} has no features: {self._record.missing[index]}"
                )
            gathered[place] = self._features[index]
        return Features(torch.from_numpy(gathered).float())


def _complete(
    record: Record, write: Callable[[], None], announce: Announce, processes: Processes
) -> None:
    """Write what is not there, read everything back and write again what is damaged."""
    for _ in range(_ROUNDS):
        if not record.is_complete:
            write()
        damaged = processes.share(record.damaged() if processes.is_first else [])
        if not damaged:
            if processes.is_first:
                os.truncate(record.folder / FEATURES, record.file_bytes)  # it may be too long
                record.finish()
            record.known = processes.share(record.known)
            return
        announce(
            f"feature store: {len(damaged)} of {len(record.chunks)} parts of {record.folder} are "
            "damaged and are written again"
        )
        record.forget(damaged)
    raise StorageError(
        f"{record.folder} does not keep what is written to it: {len(damaged)} parts are damaged "
        "after having been written anew; give a folder on another disk with --feature-store"
    )


def _check_that_it_is_seen(record: Record) -> None:
    """Raise StorageError where another process has written the store out of this one's sight."""
    path = record.folder / FEATURES
    if not path.is_file() or path.stat().st_size != record.file_bytes:
        raise StorageError(
            f"{socket.gethostname()} does not see the feature store {record.folder} that another "
            "process has written; give a folder that all machines share with --feature-store"
        )


def _record(
    folder: Path,
    encoder: Encoder,
    images: Sequence[ImageFile],
    mirrored: bool,
    copy: AugmentedCopy | None,
    batch_size: int,
) -> Record:
    """Return the layout of the store, in the folder that belongs to exactly these features."""
    identity: dict[str, Any] = {
        "encoder": encoder.config.name,
        "stage": encoder.config.stage,
        "weights_hash": encoder.fingerprint(),
        "preprocessing": encoder.preprocessing.to_json(),
        "grid": encoder.grid,
        "mirrored": mirrored,
        "images": _images_hash(images),
        **({"augmented": copy.to_json()} if copy else {}),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    readable = (
        f"{encoder.config.name}-{encoder.grid}x{encoder.grid}-{len(images)}-images"
        f"{'-mirrored' if mirrored else ''}{f'-copy-{copy.number}' if copy else ''}-{key}"
    )
    shape = (len(images), encoder.grid**2, encoder.feature_size)
    batch_bytes = batch_size * shape[1] * shape[2] * 2
    return Record(
        folder=Path(os.path.expanduser(folder)) / re.sub(r"[^\w.-]", "_", readable),
        identity=identity,
        shape=shape,
        rows_per_chunk=batch_size * max(1, CHUNK_BYTES // batch_bytes),
    )


def _images_hash(images: Sequence[ImageFile]) -> str:
    """Return a hash of all names and sizes of files, by which a changed data set is noticed."""
    digest = hashlib.sha256()
    found = 0
    for image in images:
        size = -1
        with suppress(OSError, ValueError):  # the latter of a name that no file can have
            size = image.path.stat().st_size
            found += 1
        digest.update(f"{image.filename}\0{size}\n".encode("utf-8", "surrogatepass"))
    if found == 0:
        raise DataError(
            f"none of the {len(images):,} images is there (first: {images[0].path}); check --images"
            if images
            else "there is no image to encode; check the data set and its split"
        )
    return digest.hexdigest()


def _announce_size(record: Record, encoder: Encoder, announce: Announce) -> None:
    """Say what is about to be written and what is free.

    Raises:
        StorageError: it does not fit.
    """
    needed = record.file_bytes
    with suppress(OSError):
        needed -= (record.folder / FEATURES).stat().st_blocks * 512
    free = shutil.disk_usage(record.folder).free
    images, positions, features = record.shape
    announce(
        f"feature store: {encoder.config.name} features of {images:,} images take "
        f"{_size(record.file_bytes)} ({positions} x {features} float16 each) in "
        f"{record.folder}, where {_size(free)} are free"
    )
    if needed > free:
        raise StorageError(
            f"the feature store takes {_size(needed)} more in {record.folder} and "
            f"{_size(free)} are free; free some space, give a folder on another disk with "
            "--feature-store, or a smaller --grid"
        )


def _size(count: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"
