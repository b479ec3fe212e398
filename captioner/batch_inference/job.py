"""A job: its plan and its manifest, which lie beside the results, and what is left of it to do.

`_photographs.txt` lists the photographs of a folder, `_shards.jsonl` says how the source is cut,
and `_manifest.json` comes last: a folder without it holds no job. It has the hashes of the list and
of the shards, which are on the disk before it is: where a byte differs, shards would hold others'
photographs, or lose some. A shard is done when its file is
there, and the file appears whole or not at all; so whatever is killed at whatever moment, a resumed
job does what is left, and each photograph has exactly one row.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from captioner.batch_inference import sources, storage
from captioner.batch_inference.results import ShardSummary, part_name, part_number, read_summary
from captioner.batch_inference.sources import Shard
from captioner.batch_inference.storage import OutputFolder
from captioner.errors import DataError, OptionError
from captioner.search_config import SearchConfig, SearchFlags

FORMAT_VERSION = 2
MANIFEST, SHARDS = "_manifest.json", "_shards.jsonl"
PHOTOGRAPHS, SUMMARY = "_photographs.txt", "_summary.json"
FOOTERS_AT_ONCE = 16


@dataclass
class Totals:
    """What became of the shards so far."""

    shards: int = 0
    photographs: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, summary: ShardSummary) -> None:
        self.shards += 1
        self.photographs += summary.photographs
        self.failures.update(summary.failures)
        for name, value in summary.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value


@dataclass(frozen=True)
class Job:
    """A source cut into shards, and where their captions are written."""

    out: OutputFolder
    shards: int
    photographs: int | None  # None where nobody has counted them: of tars
    done: frozenset[int]  # shards that an earlier process wrote
    earlier: Totals  # what became of those

    def remaining(self) -> Iterator[Shard]:
        """Yield the shards that are left to do, in order."""
        with storage.open_file(self.out.file(SHARDS)) as file:
            for line in file:
                shard = Shard.from_line(line)
                if shard.number not in self.done:
                    yield shard

    def expected(self, totals: Totals) -> int | None:
        """Return how many photographs there are, estimated from those of the shards so far."""
        if self.photographs is not None or not totals.shards:
            return self.photographs
        return round(totals.photographs / totals.shards * self.shards)

    def finish(self, facts: dict[str, Any]) -> None:
        """Bring all captions to the disk, then write the summary of the whole job.

        Raises:
            StorageError: the disk cannot take them.
        """
        self.out.bring_to_disk(part_name(one) for one in range(self.shards))
        self.out.write(SUMMARY, _json(facts))

    def withdraw(self) -> None:
        """Remove a job that came to nothing; one that has captions stays."""
        if not _has_captions(self.out):
            self.out.remove(MANIFEST, PHOTOGRAPHS, SHARDS)


def begin_job(
    out: OutputFolder,
    source: str,
    *,
    model_hash: str,
    search: SearchConfig,
    column: str | None = None,
    shard_size: int | None = None,
    resume: bool = False,
) -> Job:
    """Return a new job, or with `resume` the one in `out`, which is locked, if there is one.

    A job that has no captions yet is in nobody's way: without `resume` it is begun anew.

    Raises:
        OptionError: `out` holds another job, or the source cannot be told.
        DataError: there is no such source, or nothing in it, or the job's list is another one now.
        StorageError: `out` cannot be written.
    """
    identity = {
        "source": storage.absolute(source),
        "column": column,
        "shard_size": shard_size,
        "model": model_hash,
        "search": search.to_json(),
    }
    manifest = out.read(MANIFEST)
    is_begun = _has_captions(out)
    if manifest is None:
        if is_begun:
            raise OptionError(
                f"{out.path} holds captions and no {MANIFEST}, so nobody knows of what; "
                "choose another --out"
            )
        return _plan(out, identity)
    if resume:
        return _resumed(out, identity, manifest)
    if is_begun:
        raise OptionError(
            f"{out.path} holds the captions of an earlier job; go on with it by --resume, "
            "or choose another --out"
        )
    return _plan(out, identity)


def _has_captions(out: OutputFolder) -> bool:
    return any(part_number(name) is not None for name in out.names())


def _plan(out: OutputFolder, identity: dict[str, Any]) -> Job:
    try:
        facts = _write_shards(out, identity)
    except BaseException:
        out.remove(MANIFEST, PHOTOGRAPHS, SHARDS)
        raise
    out.write(MANIFEST, _json({"format_version": FORMAT_VERSION, **identity, **facts}))
    return Job(out, facts["shards"], facts["photographs"], frozenset(), Totals())


def _write_shards(out: OutputFolder, identity: dict[str, Any]) -> dict[str, Any]:
    """Write the list of photographs, where there is none, and the shards.

    Returns:
        their numbers, and the hashes of these files by name.
    """

    def write_list(paths: Iterable[str]) -> str:
        with out.open_to_write(PHOTOGRAPHS) as file:
            file.writelines(map(storage.line_for, paths))
        out.bring_to_disk([PHOTOGRAPHS])
        return out.file(PHOTOGRAPHS)

    listing = sources.find(
        identity["source"], column=identity["column"], write_list=write_list, leave_out=out.path
    )
    hashes = {file: storage.file_hash(file) for file in listing.files if listing.kind == "list"}
    shards, photographs = 0, 0
    with out.open_to_write(SHARDS) as file:
        for shard in sources.cut(listing, identity["shard_size"]):
            file.write(shard.to_line())
            shards += 1
            photographs += shard.photographs or 0
    if not shards:
        raise DataError(f"{identity['source']} names no photograph")
    out.bring_to_disk([SHARDS])
    return {
        "shards": shards,
        "photographs": None if listing.kind == "tar" else photographs,
        "hashes": {**hashes, SHARDS: storage.file_hash(out.file(SHARDS))},
    }


def _resumed(out: OutputFolder, identity: dict[str, Any], manifest: bytes) -> Job:
    """Return the job that lies in `out`.

    Raises:
        OptionError: it is another one.
        DataError: its list or its shards are not as they were.
    """
    try:
        stored = json.loads(manifest)
        version = stored["format_version"]
    except (ValueError, TypeError, KeyError) as problem:
        raise OptionError(f"{out.file(MANIFEST)} is damaged; choose another --out") from problem
    if version != FORMAT_VERSION:
        raise OptionError(
            f"{out.path} holds a job of another version of captioner; choose another --out"
        )
    before = _by_option(stored)
    for name, value in _by_option(json.loads(_json(identity))).items():
        if before.get(name) != value:
            raise OptionError(
                f"{name} is {_shown(value)}, and the job in {out.path} began with "
                f"{_shown(before.get(name))}; give the same, or choose another --out"
            )
    for name, expected in stored["hashes"].items():
        file = storage.joined(out.path, name)
        if storage.file_hash(file) != expected:
            raise DataError(
                f"{file} is not as it was when the job in {out.path} began: it was changed or "
                "damaged; bring it back, or choose another --out"
            )
    out.remove_leftovers()
    earlier, done = Totals(), set()
    numbers = [one for one in map(part_number, out.names()) if one is not None]
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        # What a power failure damaged is done again.
        for summary in threads.map(partial(read_summary, out), numbers):
            if summary is not None:
                earlier.add(summary)
                done.add(summary.number)
    return Job(out, stored["shards"], stored["photographs"], frozenset(done), earlier)


def _by_option(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a job this one, by what the command line calls it."""
    return {
        "source": identity["source"],
        "--column": identity["column"],
        "--shard-size": identity["shard_size"],
        "the model": identity["model"],
        **{SearchFlags.label(name): value for name, value in identity["search"].items()},
    }


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)[:300]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode("ascii") + b"\n"
