"""The source of a data set: what it stands for, cut into numbered shards.

A source is a folder, a pattern, a list of paths, tar files (WebDataset) or Parquet files, each
local or by a URL of fsspec. The photographs of folders and patterns are listed into a file first,
so that all that is kept of a shard is where it begins: a source of ten million photographs takes
no more memory than one of a thousand.
"""

import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from captioner.batch_inference import storage
from captioner.batch_inference.parquet_rows import choose_column, row_ranges
from captioner.data.image_formats import UNREADABLE, is_image_file, readable_suffixes
from captioner.errors import DataError, OptionError

Kind = Literal["list", "tar", "parquet"]

LIST_SUFFIXES = (".txt", ".lst", ".list")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet", ".pq")
FEWEST, MOST = 16, 1024  # photographs of a shard, unless they are asked for
SHARDS_OF_SMALL = 16  # so that several cores are busy to the end
FOOTERS_AT_ONCE = 16
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shard:
    """Photographs that are captioned together and written as one file."""

    number: int  # from 0
    kind: Kind
    file: str  # path or URL of the list, the tar or the Parquet file
    start: int = 0  # of a list the byte where its first line begins, of Parquet the row
    photographs: int | None = None  # None: all that the file holds, which nobody has counted
    column: str = ""  # of Parquet

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> "Shard":
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Listing:
    """What a source holds."""

    kind: Kind
    files: tuple[str, ...]  # one list, or tars, or Parquet files
    column: str = ""


def find(
    source: str, *, column: str | None, write_list: Callable[[Iterable[str]], str], leave_out: str
) -> Listing:
    """Return what a source stands for.

    `write_list` writes the paths of photographs to a list and returns where it is. What lies in the
    folder `leave_out`, where the results are written, is no part of any source.

    Raises:
        DataError: there is nothing, or a file of it is damaged.
        OptionError: it holds different kinds of files, or no Parquet with such a column; or it is
            `leave_out` itself.
    """
    source = storage.absolute(source)
    if _kind_of(source) == "list" and not _is_pattern(source):
        _refuse_column(column, source)
        return Listing("list", (source,))
    found = _Found(_files(source, leave_out))
    first = next(found.photographs, None)
    listed = "" if first is None else write_list(chain([first], found.photographs))
    others = {"tar": found.tars, "parquet": found.parquets}
    kinds = [*(["photographs"] if listed else []), *(name for name, all_ in others.items() if all_)]
    if len(kinds) > 1:
        raise OptionError(
            f"{source} holds {' and '.join(kinds)}; give a pattern for one kind, as '*.tar'"
        )
    if not kinds:
        if os.path.abspath(source.partition("/**")[0]) == leave_out:
            raise OptionError(
                f"{source} is where --out writes, and captions are no source; choose another --out"
            )
        raise DataError(f"{source} holds no photographs, tar or Parquet files; check the path")
    if found.parquets:
        return Listing("parquet", tuple(found.parquets), choose_column(found.parquets[0], column))
    _refuse_column(column, source)
    return Listing("list", (listed,)) if listed else Listing("tar", tuple(found.tars))


def _refuse_column(column: str | None, source: str) -> None:
    if column is not None:
        raise OptionError(f"--column is {column!r}, and {source} is no Parquet file; leave it out")


def cut(listing: Listing, size: int | None) -> Iterator[Shard]:
    """Yield the shards of a listing, in order; they depend on nothing else.

    Of a list a shard has `size` photographs, without it a thousand, or fewer where the list is
    short, in whole batches. Of Parquet it has about as many rows, in whole row groups unless one
    is much larger. A tar is a shard.

    Raises:
        DataError: a file cannot be read.
    """
    if listing.kind == "tar":
        for number, file in enumerate(listing.files):
            yield Shard(number, "tar", file)
    elif listing.kind == "list":
        yield from _cut_list(listing.files[0], size)
    else:
        number = 0
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
            ranges = partial(row_ranges, size=size or MOST)
            for file, found in zip(listing.files, threads.map(ranges, listing.files), strict=True):
                for start, count in found:
                    yield Shard(number, "parquet", file, start, count, listing.column)
                    number += 1


def _cut_list(file: str, size: int | None) -> Iterator[Shard]:
    if size is None:
        count = sum(1 for _ in storage.lines_of(file))
        size = min(MOST, max(FEWEST, count // SHARDS_OF_SMALL // FEWEST * FEWEST))
    number = start = count = 0
    for position, _ in storage.lines_of(file):
        if count == size:
            yield Shard(number, "list", file, start, count)
            number, count = number + 1, 0
        if not count:
            start = position
        count += 1
    if count:
        yield Shard(number, "list", file, start, count)


class _Found:
    """The files of a source by kind; tars and Parquet files are known when all are walked."""

    def __init__(self, files: Iterator[str]) -> None:
        self.tars: list[str] = []
        self.parquets: list[str] = []
        self.photographs = self._walk(files)

    def _walk(self, files: Iterator[str]) -> Iterator[str]:
        for file in files:
            kind = _kind_of(file)
            if kind == "tar":
                self.tars.append(file)
            elif kind == "parquet":
                self.parquets.append(file)
            elif is_photograph(file) or (not storage.is_url(file) and is_image_file(Path(file))):
                yield file


def is_photograph(name: str) -> bool:
    """Return whether a file is taken for a photograph by its name, readable or not."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    hidden = path.name.startswith(".")
    return not hidden and (suffix in readable_suffixes() or suffix in UNREADABLE)


def _kind_of(name: str) -> Kind | None:
    """Return the kind of a file that holds many photographs, by its name."""
    low = name.lower()
    kinds: dict[Kind, Sequence[str]] = {
        "list": LIST_SUFFIXES,
        "tar": TAR_SUFFIXES,
        "parquet": PARQUET_SUFFIXES,
    }
    return next((kind for kind, endings in kinds.items() if low.endswith(tuple(endings))), None)


def _is_pattern(source: str) -> bool:
    """Return whether a source stands for others; what exists as it is written does not."""
    if not glob.has_magic(source) and _NUMBERS.search(source) is None:
        return False
    system, name = storage.file_system(source)
    return not system.exists(name)


def _files(source: str, leave_out: str) -> Iterator[str]:
    """Yield every file of a source but hidden ones, in an order that depends on names alone.

    Raises:
        DataError: there is no such file or folder.
    """
    system, name = storage.file_system(source)
    local = not storage.is_url(source)
    is_pattern = _is_pattern(source)
    as_written = len(_folder_above(source)) if is_pattern and local else 0
    if is_pattern and (numbers := _NUMBERS.search(source, as_written)) is not None:
        low, high = numbers.groups()
        for number in range(int(low), int(high) + 1):
            digits = f"{number:0{len(low)}d}"
            one = source[: numbers.start()] + digits + source[numbers.end() :]
            yield from _files(one, leave_out)
        return
    if is_pattern:
        if local:
            yield from _matches_here(source, leave_out)
        else:
            yield from (storage.full_name(system, str(one)) for one in sorted(system.glob(name)))
    elif system.isdir(name):
        walk = _walk_here(name, leave_out) if local else _walk_there(system, name)
        yield from walk
    elif system.exists(name):
        yield source
    else:
        raise DataError(f"{source}: there is no such file or folder; check the path")


def _matches_here(pattern: str, leave_out: str) -> Iterator[str]:
    """Yield the files that fit a pattern; `**` stands for folders, and not for links to them.

    Python's own `**` follows links, so two that lead upwards would keep it busy for ever. Folders
    at its beginning that exist as they are written are no part of the pattern.
    """
    folder = _folder_above(pattern)
    pattern = glob.escape(folder) + pattern[len(folder) :]
    above, recursive, below = pattern.partition("/**/")
    if not recursive and pattern.endswith("/**"):
        above, recursive, below = pattern[:-3], "/**/", ""
    matches = sorted(glob.iglob(above or "/"))
    if not recursive:
        yield from filter(os.path.isfile, matches)
        return
    parts = ["**", *filter(None, below.split("/"))]
    for folder in filter(os.path.isdir, matches):
        for file in _walk_here(folder, leave_out):
            if _fit(file[len(folder) :].strip("/").split("/"), parts):
                yield file


def _folder_above(pattern: str) -> str:
    """Return the longest beginning of a local pattern that is a folder as it is written."""
    folder, *rest = pattern.split("/")
    while len(rest) > 1 and os.path.isdir(f"{folder}/{rest[0]}"):
        folder = f"{folder}/{rest.pop(0)}"
    return folder


def _fit(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the names of folders and of a file fit the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fit(names[skipped:], parts[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fit(names[1:], parts[1:])


def _walk_here(folder: str, leave_out: str) -> Iterator[str]:
    if os.path.abspath(folder) == leave_out:
        return
    with os.scandir(folder) as entries:
        found = sorted((one.name, one.is_dir(follow_symlinks=False)) for one in entries)
    for name, is_folder in found:
        path = f"{folder.rstrip('/')}/{name}"
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk_here(path, leave_out)
        elif os.path.isfile(path) or not os.path.exists(path):  # a link that leads nowhere
            yield path


def _walk_there(system: Any, folder: str) -> Iterator[str]:
    for parent, folders, names in system.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield storage.full_name(system, f"{parent.rstrip('/')}/{name}")
