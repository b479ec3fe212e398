"""Atomic writes of files and folders: each appears complete or not at all.

Everything is written beside its destination, flushed to disk and then renamed, so a reader, a crash
or a full disk never sees half a file. Leftovers of a killed process are removed by the next write
to the same place; a lock tells them from files that are still being written.

No command writes over a file that it reads.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from captioner.errors import CaptionerError, OptionError, StorageError

_AT_FDCWD = -100  # linux/fcntl.h: paths are relative to the current folder
_RENAME_EXCHANGE = 2  # linux/fs.h: swap the two names in one step
SYNCS_AT_ONCE = 16  # which the disk takes together
_LEFTOVER_SECONDS = 10.0  # younger ones may not have been locked yet
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DISK_ERRORS = (*_FULL, *_DENIED, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG)


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data`; whatever goes wrong, the file is the old one or the new one.

    With `durable=False` nobody waits for the disk, so a power failure may damage the file: for what
    can be made again, if its readers notice.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    with open_atomically(path, durable=durable) as file:
        file.write(data)


@contextmanager
def open_atomically(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of `path` when the block ends without an error.

    Of `durable` see `write_atomically`. A pipe or a device, such as /dev/stdout, is not replaced:
    it is written to at once.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with _explained(path), open(path, "wb") as file:
            yield file
        return
    path = path.resolve()
    with _explained(path):
        aside = _prepare(path)
        try:
            with open(aside, "xb") as file:
                _lock(file.fileno())
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                os.replace(aside, path)
            if durable:
                _sync(path.parent)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when the block ends without an error.

    With `durable=False` its files are not flushed to the disk one by one, which takes long for
    thousands: for what can be made again after a power failure, if its readers notice.

    The two change places in one step where the file system can do that. Elsewhere there is a
    moment without `target`; a process killed in it leaves what `recover_folder` puts right.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    target = target.resolve()
    with _explained(target):
        aside = _prepare(target)
        recover_folder(target)
        aside.mkdir()
        lock = os.open(aside, os.O_RDONLY)
        try:
            _lock(lock)
            yield aside
            if durable:
                _sync_tree(aside)
            _put_in_place(aside, target)
            _sync(target.parent)
        except StorageError as problem:  # of a file inside: name the place the user knows
            raise StorageError(str(problem).replace(str(aside), str(target))) from problem
        finally:
            recover_folder(target)
            _remove(aside)
            os.close(lock)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield an empty folder for what is needed until the block ends.

    Raises:
        StorageError: it cannot hold what was written into it.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        except OSError as problem:
            if _disk_error(problem, Path(name, "any")) is None:
                raise
            raise StorageError(
                f"{Path(name).parent} cannot hold what is worked on: {problem.strerror}; free some "
                "space, or name another folder in the environment variable TMPDIR"
            ) from problem


def carry_over(source: Path, target: Path, *, all_but: Collection[str]) -> None:
    """Copy into the folder `target` what `source` holds, without the files and folders `all_but`.

    Those are named from `source` on, with slashes. Links stay links.

    Raises:
        StorageError: something of that name is in `target`.
    """
    for path in sorted(source.rglob("*")):  # a folder comes before what is in it
        name = path.relative_to(source)
        if any(one.as_posix() in all_but for one in (name, *name.parents)):
            continue
        copy = target / name
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and copy.is_dir():
            continue
        if os.path.lexists(copy):
            raise StorageError(f"{copy} is in the way of a file that is to be written; move it")
        if is_folder:
            copy.mkdir()
        else:
            shutil.copy2(path, copy, follow_symlinks=False)


def refuse_to_overwrite(flag: str, outs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise OptionError if one of `outs`, which a flag names, is a file that the command reads."""
    there = [out for out in outs if out.is_file()]
    read = {_identity(path) for path in inputs if path.is_file()} if there else set()
    for out in there:
        if _identity(out) in read:
            raise OptionError(
                f"{flag} would overwrite {out}, which is one of the files to read; "
                "give another name"
            )


def _identity(path: Path) -> tuple[int, int]:
    """Return what two names of one file have in common."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def bring_to_disk(folder: Path, names: Iterable[str]) -> None:
    """Wait until files of a folder, and their names, are where a power failure leaves them.

    Raises:
        StorageError: the disk cannot take them.
    """
    with _explained(folder), ThreadPoolExecutor(SYNCS_AT_ONCE) as threads:
        for _ in threads.map(lambda name: _sync(folder / name), names):
            pass
        _sync(folder)


def recover_folder(target: Path) -> None:
    """Bring back the previous `target` if its replacement was interrupted between two renames.

    Readers call it before they look; it does nothing when there is nothing to put right.
    """
    target = target.resolve()
    previous = _previous(target)
    if not target.exists() and previous.exists():
        with suppress(OSError):  # another process was quicker, which is as good
            previous.rename(target)


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON, whole or not at all.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
        StorageError: the disk is full or the folder cannot be written to.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    # The escape of half a character is JSON's own.
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_json(
    path: Path, what: str, error: type[CaptionerError], *, unique_keys: bool = False
) -> Any:
    """Return the value held by a JSON file; `what` names its content in the error message.

    With `unique_keys` an object that has a key twice is an error; else its last value counts.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(
                key for key, count in Counter(key for key, _ in pairs).items() if count > 1
            )
            raise error(f"{what}: {path} has {twice!r} twice in one object; keep one of each")
        return found

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique if unique_keys else None)
    except FileNotFoundError:
        raise error(f"{what} not found: there is no file {path}; check the path") from None
    except OSError as problem:
        raise error(f"{what} cannot be read: {path}: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise error(
            f"{what} is not valid JSON: {path}: {problem}; restore or rewrite the file"
        ) from problem


def file_hash(path: Path) -> str:
    """Return the SHA-256 of the file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a disk's refusal into one line that names `path`; other errors pass through."""
    try:
        yield
    except Exception as problem:
        code = _disk_error(problem, path)
        if code is None:
            raise
        remedy = "check the disk and the permissions"
        if code in _FULL:
            remedy = "free some space and try again"
        raise StorageError(
            f"{path} could not be written: {os.strerror(code)}; "
            f"what was there before is untouched; {remedy}"
        ) from problem


def _disk_error(problem: Exception, path: Path) -> int | None:
    """Return the number of the error if it says that `path` cannot be written, else None."""
    if isinstance(problem, OSError):
        names = [
            one for one in (problem.filename, problem.filename2) if isinstance(one, str | Path)
        ]
        resolved = [Path(name).resolve() for name in names]
        if names and not any(
            one.is_relative_to(path.parent) or path.is_relative_to(one) for one in resolved
        ):
            return None
        return problem.errno if problem.errno in _DISK_ERRORS else None
    # safetensors writes from Rust and raises its own error, with the number only in the text.
    text = str(problem)
    return next((code for code in _DISK_ERRORS if f"(os error {code})" in text), None)


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _lock(descriptor: int) -> bool:
    """Return whether the file is now locked by this process; the lock dies with it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def _prepare(target: Path) -> Path:
    """Return a new name beside `target`, after removing what killed writers left there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as problem:
        raise StorageError(
            f"{target} cannot be written: {problem.filename} is not a folder; choose another place"
        ) from problem
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.part")
    for entry in target.parent.iterdir():
        if leftover.fullmatch(entry.name):
            with suppress(OSError), _descriptor(entry) as descriptor:
                age = time.time() - os.fstat(descriptor).st_mtime
                if age > _LEFTOVER_SECONDS and _lock(descriptor):
                    _remove(entry)
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    """Open a file or folder to lock it or to flush it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _put_in_place(aside: Path, target: Path) -> None:
    """Rename `aside` to `target`; afterwards `aside` is the old folder or is gone."""
    previous = _previous(target)
    while True:
        is_replaced = target.exists()
        if is_replaced:
            if _exchange(aside, target):
                return
            _remove(previous)
            target.rename(previous)
        try:
            aside.rename(target)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue  # another writer was quicker, or a reader brought the previous one back
        if is_replaced:
            # Not removed under this name: half of it must never be taken for one to bring back.
            previous.rename(aside)
        return


def _exchange(first: Path, second: Path) -> bool:
    """Return whether the kernel swapped the two names in one step."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second)
    return bool(renameat2(*names, _RENAME_EXCHANGE) == 0)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():  # it may lead nowhere
                _sync(path)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)
