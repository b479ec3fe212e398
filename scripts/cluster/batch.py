"""A batch job on two nodes, one of which dies, and one whose driver dies: each row once."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from captioner.errors import ToolError
from cluster.nodes import Cluster

SHARD = 16  # photographs
PATIENCE = 600.0  # seconds
BROKEN = 3  # photographs


def check_batch(
    cluster: Cluster, folder: Path, files: list[Path], photographs: int
) -> dict[str, dict[str, Any]]:
    """Return what became of three jobs: an undisturbed one, and those with a death."""
    source = folder / "photographs"
    source.mkdir()
    for number, file in enumerate(islice(cycle(files), photographs)):
        (source / f"{number:06d}.jpg").symlink_to(file.absolute())
    for number in range(BROKEN):
        (source / f"broken-{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    expected = {str(path): 1 for path in source.iterdir()}

    whole, seconds = folder / "whole", time.monotonic()
    _start(cluster, source, whole).communicate(timeout=PATIENCE)
    seconds = time.monotonic() - seconds
    summary = json.loads((whole / "_summary.json").read_text())
    captions = _captions(whole)
    undisturbed = {
        **_counts(whole, expected, captions),
        "photographs_per_second": summary["photographs_per_second"],
        "seconds": round(seconds, 1),
    }
    node = _with_a_death(cluster, source, folder / "node", expected, captions, of="node")
    cluster.start_worker_node()
    driver = _with_a_death(cluster, source, folder / "driver", expected, captions, of="driver")
    return {"undisturbed": undisturbed, "node killed": node, "driver killed": driver}


def _with_a_death(
    cluster: Cluster,
    source: Path,
    out: Path,
    expected: dict[str, int],
    captions: dict[str, str],
    *,
    of: str,
) -> dict[str, Any]:
    began = time.monotonic()
    job = _start(cluster, source, out)
    enough = len(expected) // SHARD // 3
    _until(lambda: len(_parts(out)) >= enough, job, "a third of the captions")
    found: dict[str, Any] = {"shards_written_before": len(_parts(out))}
    if of == "node":
        found["processes_killed"] = cluster.kill_worker_node()
    else:
        job.send_signal(signal.SIGKILL)
        job.wait()
        before = _parts(out)
        job = _start(cluster, source, out, "--resume")
    try:
        job.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        job.kill()
        return {**found, "passed": False, "reason": f"not over after {PATIENCE:.0f} s"}
    found["seconds"] = round(time.monotonic() - began, 1)
    counts = _counts(out, expected, captions)
    if of == "driver":
        after = _parts(out)
        counts["written_anew"] = sum(after[name] != facts for name, facts in before.items())
        counts["passed"] &= not counts["written_anew"]
    return {**counts, **found}


def _start(cluster: Cluster, source: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["--out", str(out), "--ray-address", cluster.address, "--shard-size", str(SHARD)]
    program = [sys.executable, "-m", "captioner", "caption-dataset", str(source), *words, *more]
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            cluster.command(program), env=cluster.environment, stdout=log, stderr=log
        )


def _until(happens: Callable[[], bool], job: subprocess.Popen[bytes], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > end or job.poll() is not None:
            job.kill()
            raise ToolError(f"the job ended, or took too long, before it had {what}")
        time.sleep(0.05)


def _parts(out: Path) -> dict[str, tuple[int, int]]:
    """Return of each file of captions what changes when it is written anew."""
    found = {path.name: path.stat() for path in out.glob("part-*")}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in found.items()}


def _captions(out: Path) -> dict[str, str]:
    rows = pq.read_table(out, columns=["path", "caption"]).to_pylist()
    return {row["path"]: row["caption"] for row in rows}


def _counts(out: Path, expected: dict[str, int], captions: dict[str, str]) -> dict[str, Any]:
    """Count rows against the photographs that there are, and captions against other ones."""
    rows = Counter(pq.read_table(out, columns=["path"]).column("path").to_pylist())
    found = _captions(out)
    counts = {
        "photographs": len(expected),
        "rows": rows.total(),
        "missing": len(expected.keys() - rows.keys()),
        "twice": sum(count > 1 for count in rows.values()),
        "other_captions": sum(found[path] != captions[path] for path in found),
        "errors": sum(caption is None for caption in found.values()),
    }
    is_right = rows == Counter(expected) and counts["errors"] == BROKEN
    return {"passed": is_right and not counts["other_captions"], **counts}
