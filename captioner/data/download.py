"""Downloads of large files: resumed, and compared with a checksum.

A partial download is kept beside the target under another name. The target appears when it is
complete and correct. If a server cannot resume, or its file has another size, the download starts
again.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from captioner.errors import DataError, StorageError
from captioner.progress import Progress
from captioner.proxies import RoutedTransport, failure, proxy_for

TRIES = 5  # in a row without a byte
WAIT_SECONDS = 2.0  # before the second try, twice as long before each further one
TIMEOUT_SECONDS = 30.0  # without a byte
BLOCK_BYTES = 1 << 20
MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class WebFile:
    """A file and the addresses that hold it, the best one first."""

    name: str
    addresses: Sequence[str]
    size: int  # bytes; an estimate where `sha256` is empty
    sha256: str = ""  # as published; empty where nobody has published it
    begins_with: bytes = b""  # tells the file from a page that says it is gone


class _AddressError(Exception):
    """An address does not give the file; the reason is meant for the reader."""


def fetch(file: WebFile, folder: Path, *, show_progress: bool = True) -> Path:
    """Return the path of the file in `folder`, fetched unless it is there already.

    Raises:
        DataError: no address gives the file now (the next call goes on where this one stopped),
            or it is not the file that its checksum promises.
        StorageError: the disk is full or not writable.
        OptionError: a variable of the environment names a proxy or certificates that cannot be
            used.
    """
    target = folder / file.name
    if target.is_file():
        return target
    part = part_of(target)
    problems: list[str] = []
    for address in file.addresses:
        try:
            _fetch_from(address, file, part, show_progress)
            with open(part, "rb") as stream:
                if stream.read(len(file.begins_with)) != file.begins_with:
                    raise _AddressError("the server sends something else")
            break
        except _AddressError as problem:
            problems.append(f"{address}: {problem}")
            if not file.sha256:
                part.unlink(missing_ok=True)  # another address may hold other bytes
    else:
        raise DataError(
            f"{file.name} could not be fetched ({'; '.join(problems)}); "
            "check the network and run the same command again, which goes on where it stopped"
        )
    if file.sha256:
        _compare(file, part, show_progress)
    part.rename(target)
    return target


def part_of(target: Path) -> Path:
    """Return where the bytes of an unfinished download lie."""
    return target.with_name(target.name + ".part")


def _fetch_from(address: str, file: WebFile, part: Path, show_progress: bool) -> None:
    """Bring `part` to its full length, trying again as long as bytes arrive."""
    length_at_first = _length(part)
    failures = 0
    with httpx.Client(
        follow_redirects=True,
        timeout=TIMEOUT_SECONDS,
        transport=RoutedTransport(),
        trust_env=False,  # the transport follows the environment
    ) as client:
        while True:
            before = _length(part)
            try:
                return _fetch_once(client, address, file, part, show_progress)
            except httpx.TransportError as problem:
                failures = 1 if _length(part) > before else failures + 1
                is_offline = isinstance(problem, httpx.ConnectError) and before == length_at_first
                if is_offline or failures >= TRIES:
                    raise _AddressError(failure(problem, address)) from problem
                time.sleep(WAIT_SECONDS * 2 ** (failures - 1))
            except (httpx.HTTPError, httpx.InvalidURL) as problem:
                raise _AddressError(failure(problem, address)) from problem


def _fetch_once(
    client: httpx.Client, address: str, file: WebFile, part: Path, show_progress: bool
) -> None:
    have = _length(part)
    if file.sha256 and have == file.size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", address, headers=headers) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if _total(answer) == have:
                return
            part.unlink(missing_ok=True)
            raise httpx.RemoteProtocolError(f"the server's file is shorter than our {have:,} bytes")
        if not answer.is_success:
            refusal = f"the server answers {answer.status_code} {answer.reason_phrase}"
            proxy = proxy_for(str(answer.url))
            raise _AddressError(f"{refusal}, through {proxy}" if proxy else refusal)
        start, total = _extent(answer)
        if file.sha256 and total not in (None, file.size):
            raise _AddressError(
                f"the server's file has {total:,} bytes, {file.size:,} are expected"
            )
        if start not in (0, have):
            raise _AddressError(f"the server sends bytes from {start:,}, not from {have:,}")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "ab" if start else "wb") as stream:
                size = total or file.size
                stream.writelines(_shown(answer.iter_raw(), file.name, start, size, show_progress))
        except OSError as problem:
            raise StorageError(
                f"{part} cannot be written: {problem.strerror}; see to the disk and run the same "
                "command again, which goes on where it stopped"
            ) from problem
    if total is not None and _length(part) < total:
        raise httpx.RemoteProtocolError("the connection ended too early")


def _extent(answer: httpx.Response) -> tuple[int, int | None]:
    """Return where the answer's bytes begin in the file, and how long the file is if known."""
    if answer.status_code == 206:
        begin = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if begin is None:
            raise _AddressError("the server sends a part of the file without saying which")
        return int(begin[1]), _total(answer)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _total(answer: httpx.Response) -> int | None:
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def _shown(
    blocks: Iterable[bytes], description: str, start: int, size: int, show: bool
) -> Iterator[bytes]:
    """Yield the blocks of a file, from the byte `start` of `size`, and show how far they are."""
    count, megabytes = start, round(size / MEGABYTE)
    with Progress(
        megabytes, description, unit="MB", initial=start // MEGABYTE, enabled=show
    ) as progress:
        for block in blocks:
            yield block
            progress.advance((count + len(block)) // MEGABYTE - count // MEGABYTE)
            count += len(block)


def _compare(file: WebFile, part: Path, show_progress: bool) -> None:
    digest = hashlib.sha256()
    with open(part, "rb") as stream:
        blocks = iter(lambda: stream.read(BLOCK_BYTES), b"")
        for block in _shown(blocks, f"checking {file.name}", 0, file.size, show_progress):
            digest.update(block)
    if digest.hexdigest() != file.sha256:
        part.unlink()
        raise DataError(
            f"{file.name} has the SHA-256 {digest.hexdigest()}, published is {file.sha256}; "
            "it was damaged on the way and is removed: run the same command again"
        )


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
