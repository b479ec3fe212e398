"""Files by path or by a URL of fsspec: a local disk, an object store, a web server.

What is written appears whole or not at all: under another name first, then renamed.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from captioner.errors import DataError, OptionError, StorageError, ToolError
from captioner.files import bring_to_disk, write_atomically
from captioner.text import escaped, in_one_line

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: str) -> bool:
    """Return whether a path names its protocol, as s3://bucket/key does."""
    return _PROTOCOL.match(path) is not None


def absolute(path: str) -> str:
    """Return a URL as it is, and a local path from the root on."""
    return path if is_url(path) else str(Path(os.path.expanduser(path)).absolute())


def joined(folder: str, name: str) -> str:
    """Return where `name` lies that was read in a file of `folder`."""
    if is_url(name) or name.startswith("/"):
        return name
    return f"{folder.rstrip('/')}/{name}"


def parent(path: str) -> str:
    """Return the folder of a file."""
    return path.rpartition("/")[0] or "/"


def file_system(path: str) -> tuple[Any, str]:
    """Return the file system that a path is of, and its name there.

    Raises:
        OptionError: there is no such protocol.
        ToolError: the package of its protocol is not installed.
    """
    if not is_url(path):  # whatever is in it, such as two colons
        return LocalFileSystem(), path
    try:
        found, name = url_to_fs(path)
    except ImportError as problem:  # fsspec says which package to install
        raise ToolError(f"{path} cannot be opened: {in_one_line(problem)}") from problem
    except ValueError as problem:
        raise OptionError(f"{path} cannot be opened: {in_one_line(problem)}") from problem
    return found, name


def full_name(system: Any, name: str) -> str:
    """Return a path or URL, by which any process opens what a file system calls `name`."""
    return name if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(name))


def open_file(path: str) -> BinaryIO:
    """Open a file to read it.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        system, name = file_system(path)
        opened: BinaryIO = system.open(name, "rb")
    except FileNotFoundError as problem:
        if problem.__cause__ is not None:  # of a URL: nobody answers there
            why = in_one_line(problem.__cause__)[:300]
            raise DataError(f"{path} cannot be read: {why}") from problem
        raise DataError(f"{path}: there is no such file; check the path") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {in_one_line(problem)}") from problem
    return opened


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    Raises:
        DataError: it cannot be read.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


class OutputFolder:
    """A folder that results are written to, local or by URL."""

    def __init__(self, path: str) -> None:
        self.path = absolute(path)
        self.system, self._name = file_system(self.path)
        self.is_local = isinstance(self.system, LocalFileSystem)

    def file(self, name: str) -> str:
        """Return the path or URL of a file in it."""
        return f"{self.path.rstrip('/')}/{name}"

    def make(self) -> None:
        """Make the folder where there is none.

        Raises:
            StorageError: it cannot be made.
        """
        try:
            self.system.makedirs(self._name, exist_ok=True)
        except OSError as problem:
            raise StorageError(
                f"{self.path} cannot be written: {in_one_line(problem)}; choose another --out"
            ) from problem

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it; one with nothing in it goes again.

        Only folders of a local disk can be locked; the lock ends with this process.

        Raises:
            OptionError: another process writes into it.
            StorageError: it cannot be made.
        """
        self.make()
        if not self.is_local:
            yield
            return
        descriptor = os.open(self._name, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                if problem.errno == errno.EWOULDBLOCK:  # others: a disk that has no locks
                    raise OptionError(
                        f"another process writes captions into {self.path}; wait for it, or "
                        "choose another --out"
                    ) from None
            try:
                yield
            finally:
                self.remove()
        finally:
            os.close(descriptor)

    def names(self) -> list[str]:
        """Return the names of the files in it; none where it does not exist."""
        self.system.invalidate_cache()
        try:
            found = self.system.ls(self._name, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file, whole or not at all.

        With `durable=False` it is safe from a power failure only after `bring_to_disk`.

        Raises:
            StorageError: it cannot be written.
        """
        if self.is_local:
            write_atomically(Path(self._name) / name, data, durable=durable)
            return
        aside = f"{self._name}/_{name}.{secrets.token_hex(4)}.tmp"
        try:
            self.system.pipe_file(aside, data)
            self.system.mv(aside, f"{self._name}/{name}")
        except OSError as problem:
            raise StorageError(
                f"{self.file(name)} could not be written: {in_one_line(problem)}"
            ) from problem

    def bring_to_disk(self, names: Iterable[str]) -> None:
        """Make files safe from a power failure; an object store does that by itself.

        Raises:
            StorageError: the disk cannot take them.
        """
        if not self.is_local:
            return
        try:
            bring_to_disk(Path(self._name), names)
        except FileNotFoundError as problem:
            raise StorageError(
                f"{problem.filename} was removed meanwhile; --resume makes it anew"
            ) from problem

    @contextmanager
    def open_to_write(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to write it in pieces; where that is broken off, it may be half there.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            with self.system.open(f"{self._name}/{name}", "wb") as file:
                yield file
        except OSError as problem:
            raise StorageError(
                f"{self.file(name)} could not be written: {in_one_line(problem)}; make room, or "
                "choose another --out"
            ) from problem

    def read(self, name: str) -> bytes | None:
        """Return what is in a file, or None where there is no such file.

        Raises:
            StorageError: the folder is a file.
        """
        try:
            content: bytes = self.system.cat_file(f"{self._name}/{name}")
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise StorageError(f"{self.path} is no folder; choose another --out") from None
        return content

    def remove(self, *names: str) -> None:
        """Remove files where that can be done, and the folder where nothing is left in it."""
        for name in names:
            with suppress(OSError):  # one that is not there, or a disk that can only be read
                self.system.rm_file(f"{self._name}/{name}")
        with suppress(OSError):
            self.system.rmdir(self._name)

    def remove_leftovers(self) -> None:
        """Remove what writers left behind that were killed."""
        left = [one for one in self.names() if one.startswith("_") and one.endswith(".tmp")]
        if left:
            self.remove(*left)


def lines_of(path: str) -> Iterator[tuple[int, str]]:
    """Yield each entry of a list, and the byte where its line begins; blank lines are left out.

    Raises:
        DataError: the list cannot be read, or is no text.
    """
    with open_file(path) as file:
        yield from entries(file, path)


def entries(file: BinaryIO, path: str) -> Iterator[tuple[int, str]]:
    """Yield what `lines_of` does, from where an open list stands.

    Raises:
        DataError: it is no text.
    """
    start = file.tell()
    for line in file:
        mark = BOM_UTF8 if start == 0 else b""  # as Windows begins a text
        if text := line.removeprefix(mark).strip():
            yield start, _entry(text, path)
        start += len(line)


def line_for(path: str) -> bytes:
    """Return the line of a list that stands for a path; in quotes where it must be."""
    plain = escaped(path) == path and path == path.strip() and not path.startswith('"')
    return (path if plain else json.dumps(path)).encode("utf-8") + b"\n"


def _entry(line: bytes, path: str) -> str:
    try:
        text = line.decode("utf-8", "surrogateescape")
        return str(json.loads(text)) if text.startswith('"') and text.endswith('"') else text
    except ValueError as problem:
        raise DataError(
            f"{path} has a line {line[:60]!r} that is no path: {in_one_line(problem)}"
        ) from problem
