"""The engine `ray`: Ray Data gives the shards to a pool of actors, on one machine or many.

An actor has a model and its decode processes and does with a shard what a process of this machine
does, so the results are the same. Decoded pictures never leave it: between machines go shards,
which are a line each, their counts, and once the model. What dies is Ray's to notice: an actor is
started again, where the cluster has room, and its shard is tried again. A shard that was captioned
twice has still one file.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import captioner
from captioner.batch_inference.advance import Advance
from captioner.batch_inference.results import ShardSummary
from captioner.batch_inference.shard_captioner import ShardCaptioner, ShardSettings
from captioner.batch_inference.sources import Shard
from captioner.errors import CaptionerError, StorageError, ToolError
from captioner.extras import needing
from captioner.files import folder_written_aside
from captioner.text import in_one_line

with needing("ray", "--engine ray"):
    import ray
    from ray.data import ActorPoolStrategy, DataContext

SHARD, RESULT = "shard", "result"  # columns
SHARDS_AHEAD = 2  # of an actor, so that it never waits for the next one
STARTS = 3  # Ray gives up by itself after half a minute
MOST_BLOCKS = 20_000  # what Ray Data schedules one by one; of more shards several go together


def caption_on_cluster(
    settings: ShardSettings,
    shards: Iterator[Shard],
    *,
    address: str | None,
    workers: int | None,
    cores: int,
) -> Iterator[Advance]:
    """Caption shards by actors of `cores` each, and yield how that goes on.

    Without `address` Ray is started on this machine. Without `workers` there are as many actors as
    the cluster has room for.

    Raises:
        CaptionerError: as `ShardCaptioner` does, on whatever machine.
        ToolError: there is no such cluster, or Ray gave up.
    """
    lines = [shard.to_line().decode("ascii") for shard in shards]
    if not lines:
        return
    try:
        with _connected(address):
            yield from _captioned(settings, lines, workers, cores)
    except ray.exceptions.RayError as problem:
        raise ToolError(
            f"Ray gave up: {in_one_line(problem)[:300]}; what is written stays: go on with --resume"
        ) from problem


def _captioned(
    settings: ShardSettings, lines: list[str], workers: int | None, cores: int
) -> Iterator[Advance]:
    gpus = 0 if settings.device == "cpu" else 1
    most = workers or _room(cores, gpus)
    DataContext.get_current().enable_progress_bars = False  # there is one already
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{SHARD: line} for line in lines]
    source = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS))
    model = ray.put(_files_of(settings.model))
    results = source.map_batches(
        _Actor,
        fn_constructor_args=(settings, model, captioner.__version__),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=most,
            initial_size=min(most, len(items)),
            max_tasks_in_flight_per_actor=SHARDS_AHEAD,
        ),
        num_cpus=cores,
        num_gpus=gpus,
    )
    for row in results.iter_rows():
        yield _advance(json.loads(row[RESULT]))


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Stay connected to a cluster; a program that is connected already stays so.

    Raises:
        ToolError: there is no such cluster, or the program is connected to another.
    """
    if not ray.is_initialized():
        _connect(address)
        try:
            yield
        finally:
            ray.shutdown()
        return
    here = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", here):
        raise ToolError(f"cannot reach the cluster at {address}: this program is in that at {here}")
    yield


def _connect(address: str | None) -> None:
    """Connect to a cluster, or start Ray here; on a busy machine its start may take some tries."""
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                address=address,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as problem:  # of many kinds: no cluster, another version, no key
            ray.shutdown()
            if address is not None or attempt == STARTS:
                what = f"reach the cluster at {address}" if address else "start Ray here"
                raise ToolError(f"cannot {what}: {in_one_line(problem)[:300]}") from problem
        else:
            return


def _room(cores: int, gpus: int) -> int:
    """Return how many actors the cluster has room for.

    Raises:
        ToolError: not for one.
    """
    found = ray.cluster_resources()
    rooms = [int(found.get("CPU", 0) // cores)]
    if gpus:
        rooms.append(int(found.get("GPU", 0)))
    if min(rooms) < 1:
        raise ToolError(
            f"the Ray cluster has {found.get('CPU', 0):g} cores and {found.get('GPU', 0):g} GPUs, "
            f"and a model needs {cores} and {gpus}; add a machine, or choose another --device"
        )
    return min(rooms)


def _files_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def _advance(result: dict[str, Any]) -> Advance:
    if (problem := result.get("problem")) is not None:
        raise ToolError(problem)
    summary = ShardSummary.from_json(result)
    return Advance(summary.photographs, summary)


class _Actor:
    """A model on some machine of the cluster."""

    def __init__(self, settings: ShardSettings, model: Any, version: str) -> None:
        self._settings, self._model, self._version = settings, model, version
        self._captioner: ShardCaptioner | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Caption shards, a line each, and return what became of each.

        What is wrong with all of them is said in place of an exception, which Ray would try again.
        """
        results = []
        for line in batch[SHARD]:
            try:
                summary = self._begun().caption(Shard.from_line(str(line)))
            except CaptionerError as problem:
                node = ray.util.get_node_ip_address()
                results.append({"problem": f"{problem} (on {node})"})
            else:
                results.append(summary.to_json())
        return {RESULT: [json.dumps(one) for one in results]}

    def _begun(self) -> ShardCaptioner:
        """Return the captioner, which is made when it is first needed."""
        if self._captioner is None:
            if captioner.__version__ != self._version:
                raise ToolError(
                    f"captioner is {captioner.__version__} here and {self._version} where the job "
                    "was started; install the same version on every machine"
                )
            folder = _unpacked(ray.get(self._model), self._settings.model_hash)
            self._captioner = ShardCaptioner(replace(self._settings, model=str(folder)))
        return self._captioner


def _unpacked(files: dict[str, bytes], model_hash: str) -> Path:
    """Return a folder of this machine with a model's files; its actors share one.

    What is in it is checked when the model is loaded, so it does not matter who wrote it.
    """
    name = f"captioner-{os.getuid()}-{model_hash[:32]}"
    folder = Path(tempfile.gettempdir()) / name
    if not all((folder / name).is_file() for name in files):
        try:
            with folder_written_aside(folder, durable=False) as aside:
                for name, content in files.items():
                    (aside / name).write_bytes(content)
        except OSError as problem:
            raise StorageError(f"{folder} cannot be written: {in_one_line(problem)}") from problem
    return folder
