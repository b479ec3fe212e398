"""The photographs of a shard, read one after the other; nothing is decoded here.

What cannot be read is a record with an error, so that it costs nobody else anything.
"""

import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Self

from captioner.batch_inference import storage
from captioner.batch_inference.parquet_rows import read_rows
from captioner.batch_inference.sources import Shard, is_photograph
from captioner.errors import DataError
from captioner.text import escaped, in_one_line

MOST_BYTES = 100 << 20  # of one photograph's file
FILES_AT_ONCE = 16  # that are waited for: an object store takes its time for each
UNREADABLE = "unreadable"  # the kind of failure of what could not be read at all


@dataclass(frozen=True)
class Record:
    """A photograph as it lies in its source."""

    path: str
    data: bytes = b""
    error: str = ""


def read_shard(shard: Shard) -> Iterator[Record]:
    """Yield every photograph of a shard, in the order of the source.

    Raises:
        DataError: the list that names them cannot be read.
    """
    if shard.kind == "tar":
        yield from _read_tar(shard.file)
    elif shard.kind == "parquet":
        yield from _read_parquet(shard)
    else:
        yield from _read_list(shard)


def _read_list(shard: Shard) -> Iterator[Record]:
    folder = storage.parent(shard.file)
    with storage.open_file(shard.file) as file:
        file.seek(shard.start)
        listed = islice(storage.entries(file, shard.file), shard.photographs)
        paths = [storage.joined(folder, entry) for _, entry in listed]
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        for start in range(0, len(paths), FILES_AT_ONCE):
            yield from threads.map(_read_file, paths[start : start + FILES_AT_ONCE])


def _read_file(path: str) -> Record:
    if not storage.is_url(path) and os.path.exists(path) and not os.path.isfile(path):
        return _unreadable(path, "it is no file")  # and to open a pipe would wait for ever
    try:
        with storage.open_file(path) as file:
            return _bounded(path, file)
    except DataError as problem:
        return _unreadable(path, str(problem).removeprefix(f"{escaped(path)}: "))
    except Exception as problem:  # every protocol has errors of its own
        return _unreadable(path, in_one_line(problem))


def _bounded(path: str, file: BinaryIO) -> Record:
    data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        return Record(path, error=f"image_too_large: its file has more than {MOST_BYTES:,} bytes")
    return Record(path, data)


def _read_tar(path: str) -> Iterator[Record]:
    try:
        with (
            storage.open_file(path) as file,
            tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as tar,
        ):
            for member in tar:
                if member.isdir() or not is_photograph(member.name):
                    continue
                name = f"tar://{member.name}::{path}"  # a URL of fsspec that opens it
                if not member.isfile():
                    leads = f", but a link to {member.linkname}" if member.linkname else ""
                    yield _unreadable(name, f"it is no file{leads}; store the photograph itself")
                    continue
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                yield _bounded(name, content)  # type: ignore[arg-type]
    except Exception as problem:  # of tars, of compression, of whatever protocol
        yield _unreadable(path, in_one_line(problem))


class _Member(tarfile.TarInfo):
    """A member whose header is whole.

    Python's reader takes one that is damaged or cut for the end of the archive, and would leave out
    what follows without a word.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        place = tar.offset
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as problem:
            if isinstance(problem, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise  # the mark of the end
            raise tarfile.ReadError(
                f"{in_one_line(problem)} at byte {place:,}; the tar is damaged, or was cut"
            ) from problem


def _read_parquet(shard: Shard) -> Iterator[Record]:
    assert shard.photographs is not None
    row = shard.start
    try:
        rows = read_rows(shard.file, shard.column, shard.start, shard.photographs)
        for path, value in rows:
            if value is None:
                yield _unreadable(path, "the row holds no photograph")
            elif isinstance(value, str):
                yield _read_file(value)
            else:
                yield Record(path, value)
            row += 1
    except DataError as problem:
        yield _unreadable(shard.file, in_one_line(problem))
    except Exception as problem:  # a damaged page, or what a protocol says
        for lost in range(row, shard.start + shard.photographs):
            yield _unreadable(f"{shard.file}#{lost}", in_one_line(problem))


def _unreadable(path: str, why: str) -> Record:
    return Record(path, error=f"{UNREADABLE}: {why}")
