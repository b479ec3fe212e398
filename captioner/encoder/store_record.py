"""Record of a feature store on disk: which chunks are complete, in a journal and a manifest.

While a store grows, each chunk that has reached the disk adds a line to a journal. When all have,
the journal becomes the manifest. A process killed at any moment leaves a journal of complete
chunks, from which the next one continues.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.errors import DataError, StorageError
from captioner.files import read_json, write_atomically, write_json

FEATURES, MANIFEST, JOURNAL, LOCK = "features.npy", "manifest.json", "journal.jsonl", "lock"
FORMAT = 1
_FLOAT16_BYTES = 2
_BLOCK_BYTES = 1 << 22
_NOT_UNDERSTOOD = (OSError, DataError, KeyError, TypeError, ValueError, AttributeError)


@dataclass
class Record:
    """The layout of the file of features, the hash of each chunk, and the broken images."""

    folder: Path
    identity: dict[str, Any]  # what the features are made of
    shape: tuple[int, int, int]  # images, positions, features
    rows_per_chunk: int
    hashes: dict[int, str] = field(default_factory=dict)  # of the chunks that were written
    missing: dict[int, str] = field(default_factory=dict)  # why an image could not be read
    is_finished: bool = False

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * _FLOAT16_BYTES

    @property
    def header(self) -> bytes:
        """The beginning of the file, from which NumPy knows type and shape."""
        text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {self.shape}, }}".encode()
        text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text

    @property
    def file_bytes(self) -> int:
        return len(self.header) + self.shape[0] * self.row_bytes

    @property
    def chunks(self) -> range:
        return range(-(-self.shape[0] // self.rows_per_chunk))

    @property
    def is_complete(self) -> bool:
        return len(self.hashes) == len(self.chunks)

    def rows(self, chunk: int) -> range:
        """Return the images whose features the chunk holds."""
        first = chunk * self.rows_per_chunk
        return range(first, min(first + self.rows_per_chunk, self.shape[0]))

    def offset(self, chunk: int) -> int:
        """Return where in the file the chunk begins, in bytes."""
        return len(self.header) + self.rows(chunk).start * self.row_bytes

    def damaged(self) -> list[int]:
        """Return the chunks whose bytes on the disk are not those that were written."""
        try:
            file = open(self.folder / FEATURES, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return sorted(self.hashes)
        with file:
            return [
                chunk
                for chunk in sorted(self.hashes)
                if self._hash_on_disk(file.fileno(), chunk) != self.hashes[chunk]
            ]

    def forget(self, chunks: list[int]) -> None:
        """Take the chunks for unwritten."""
        for chunk in chunks:
            del self.hashes[chunk]
            for row in self.rows(chunk):
                self.missing.pop(row, None)

    def begin(self) -> None:
        """Put down what is there already, before more is written."""
        lines = [{"format": FORMAT, "rows_per_chunk": self.rows_per_chunk}]
        lines += [self._line(chunk) for chunk in sorted(self.hashes)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(self.folder / JOURNAL, text.encode())
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def add(
        self, chunk: int, digest: str, missing: dict[int, str], *, in_journal: bool = True
    ) -> None:
        """Put down that the chunk has reached the disk; one process of several does on paper."""
        self.hashes[chunk] = digest
        self.missing.update(missing)
        if not in_journal:
            return
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps(self._line(chunk)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Put down that the store is complete."""
        assert self.is_complete
        manifest = {
            "format": FORMAT,
            "made_of": self.identity,
            "shape": self.shape,
            "rows_per_chunk": self.rows_per_chunk,
            "missing": dict(sorted(self.missing.items())),
            "hashes": [self.hashes[chunk] for chunk in self.chunks],
        }
        write_json(self.folder / MANIFEST, manifest)
        (self.folder / JOURNAL).unlink(missing_ok=True)
        self.is_finished = True

    @property
    def known(self) -> tuple[int, dict[int, str], dict[int, str], bool]:
        """What is known of the store on the disk; another process may be given it."""
        return self.rows_per_chunk, self.hashes, self.missing, self.is_finished

    @known.setter
    def known(self, known: tuple[int, dict[int, str], dict[int, str], bool]) -> None:
        self.rows_per_chunk, self.hashes, self.missing, self.is_finished = known

    def load(self) -> None:
        """Learn what earlier processes wrote: all of it, a part or nothing.

        The store counts as finished if its manifest is whole and its file has the right size. A
        manifest or journal that cannot be understood counts as none.
        """
        self.hashes, self.missing, self.is_finished = {}, {}, False
        with suppress(*_NOT_UNDERSTOOD):
            self._load_journal()  # first: where there is one, the manifest is out of date
            return
        with suppress(*_NOT_UNDERSTOOD):
            self._load_manifest()

    def _load_manifest(self) -> None:
        manifest = read_json(self.folder / MANIFEST, "manifest", DataError)
        if manifest["format"] != FORMAT or tuple(manifest["shape"]) != self.shape:
            raise ValueError("of another format")
        hashes = dict(enumerate(map(str, manifest["hashes"])))
        missing = {int(row): str(reason) for row, reason in manifest["missing"].items()}
        self.rows_per_chunk = int(manifest["rows_per_chunk"])
        if len(hashes) != len(self.chunks):
            raise ValueError("of another number of chunks")
        self.hashes, self.missing = hashes, missing
        self.is_finished = (self.folder / FEATURES).stat().st_size == self.file_bytes

    def _load_journal(self) -> None:
        first, *lines = (self.folder / JOURNAL).read_text("utf-8").splitlines()
        header = json.loads(first)
        if header["format"] != FORMAT or int(header["rows_per_chunk"]) < 1:
            raise ValueError("of another format")
        self.rows_per_chunk = int(header["rows_per_chunk"])
        with suppress(*_NOT_UNDERSTOOD):  # the last line, if its writer was killed
            for entry in map(json.loads, lines):
                missing = {int(row): str(reason) for row, reason in entry["missing"].items()}
                if entry["chunk"] in self.chunks:
                    self.hashes[entry["chunk"]] = str(entry["sha256"])
                    self.missing |= missing

    def _line(self, chunk: int) -> dict[str, Any]:
        missing = {row: self.missing[row] for row in self.rows(chunk) if row in self.missing}
        return {"chunk": chunk, "sha256": self.hashes[chunk], "missing": missing}

    def _hash_on_disk(self, descriptor: int, chunk: int) -> str:
        digest = hashlib.sha256()
        start = self.offset(chunk)
        end = start + len(self.rows(chunk)) * self.row_bytes
        for place in range(start, end, _BLOCK_BYTES):
            digest.update(os.pread(descriptor, min(_BLOCK_BYTES, end - place), place))
        return digest.hexdigest()


@contextmanager
def locked(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Hold the store for writing; wait, and say so, while another process does.

    Raises:
        StorageError: the folder cannot be written to.
    """
    try:
        file = open(folder / LOCK, "a")  # noqa: SIM115
    except OSError as problem:
        raise StorageError(
            f"the feature store {folder} cannot be written: {problem.strerror}; give a folder of "
            "your own with --feature-store"
        ) from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f"feature store: another process is writing {folder}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
