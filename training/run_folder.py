"""Folder of a run: the paths of its files, and how growing files are kept exact.

`metrics.jsonl` only grows. A checkpoint remembers its length, and resuming cuts it back to that, so
no line appears twice. Only one process at a time may write into a run.
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from captioner.errors import OptionError, StorageError, TrainingError
from captioner.files import read_json, recover_folder, write_json
from captioner.options import Options

_FORMAT = 1  # of config.json
_LOCK = ".lock"


class RunFolder:
    """The paths of one run: checkpoints in best/ and last/, and what tells of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events"  # of TensorBoard
        self.curves = path / "curves.png"
        self.captions = path / "captions_val.json"  # of a captioner
        self.samples = path / "samples.png"
        self.result = path / "result.json"  # of a benchmark
        self.best = path / "best"
        self.last = path / "last"

    @classmethod
    def new(cls, out: Path | None, default_name: str) -> "RunFolder":
        """Return a folder for a new run, `out` or `runs/default_name-TIME`; it is not made yet.

        Raises:
            OptionError: the folder holds something already.
        """
        path = out or Path("runs") / f"{default_name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if path.exists() and not path.is_dir():
            raise OptionError(f"--out {path} is a file; give a folder that is new or empty")
        if path.is_dir() and any(entry.name != _LOCK for entry in path.iterdir()):
            remedy = (
                f"go on with it by --resume {path}, or give another --out"
                if (path / "config.json").exists()
                else "give a folder that is new or empty"
            )
            raise OptionError(f"--out {path} is not empty; {remedy}")
        return cls(path)

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """Return the run in `path`, or the run that the checkpoint `path` belongs to.

        Raises:
            TrainingError: there is no run.
        """
        for candidate in (path, path.parent):
            if (candidate / "config.json").is_file():
                run = cls(candidate)
                recover_folder(run.last)
                recover_folder(run.best)
                return run
        raise TrainingError(
            f"--resume {path}: there is no config.json, so no run to go on with; "
            "give the folder of a run, such as runs/NAME"
        )

    def write_config(self, config: Options, facts: Mapping[str, Any]) -> None:
        """Keep the effective configuration, and beside it `facts` about the data.

        `origins` beside them tells by what code and on what machines the run was trained.
        """
        origins = self.read_description().get("origins", []) if self.config.exists() else []
        here = origin()
        if here not in origins:
            origins.append(here)
        write_json(
            self.config,
            {"format": _FORMAT, "config": config.to_json(), "origins": origins, **facts},
        )

    def read_description(self) -> dict[str, Any]:
        """Return all of config.json: the configuration as `config`, and the facts beside it.

        Raises:
            TrainingError: the file is damaged, or of another version.
        """
        stored = read_json(self.config, "the run's configuration", TrainingError)
        if (
            not isinstance(stored, dict)
            or stored.get("format") != _FORMAT
            or not isinstance(stored.get("config"), dict)
        ):
            raise TrainingError(
                f"{self.config} is not a configuration of format {_FORMAT}; "
                "start a new run with the same options"
            )
        return stored

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other processes from writing into it.

        Raises:
            TrainingError: another process trains in this folder.
            StorageError: the folder cannot be made.
        """
        lock = self.path / _LOCK
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(lock, "a")  # noqa: SIM115 - held below
        except OSError as problem:
            raise StorageError(
                f"{self.path} cannot be made or written to: {problem.strerror}; give another --out"
            ) from problem
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TrainingError(
                    f"another process is training in {self.path}; wait for it, or stop it first"
                ) from None
            try:
                yield
            finally:
                if list(self.path.iterdir()) == [lock]:  # nothing came of the run
                    lock.unlink()
                    with suppress(OSError):  # another run stands beside it by now
                        for path in made:
                            path.rmdir()

    def check_free_space(self, needed_bytes: int) -> None:
        """Raise StorageError unless the disk has room for this much."""
        free_bytes = shutil.disk_usage(self.path).free
        if free_bytes < needed_bytes:
            raise StorageError(
                f"{self.path} needs about {needed_bytes / 1e6:,.0f} MB for checkpoints and the "
                f"disk has {free_bytes / 1e6:,.0f} MB; free some space, or give another --out"
            )


class MetricsLog:
    """Writes the figures of a run as JSON lines and as TensorBoard events."""

    def __init__(self, folder: RunFolder, *, kept_bytes: int, step: int) -> None:
        """Go on at `step` after the first `kept_bytes` of the log; the rest is cut off."""
        self._path = folder.metrics
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if self.bytes_written > kept_bytes:
            os.truncate(self._descriptor, kept_bytes)
        self._events = _event_writer(folder.events, step)

    @property
    def has_events(self) -> bool:
        return self._events is not None

    @property
    def bytes_written(self) -> int:
        return os.fstat(self._descriptor).st_size

    def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Add a line at once.

        Raises:
            StorageError: the disk is full.
        """
        line = json.dumps({"kind": kind, "step": step, **figures}).encode() + b"\n"
        try:
            os.write(self._descriptor, line)
        except OSError as problem:
            raise StorageError(
                f"{self._path} could not be written: {problem.strerror}; the checkpoints are "
                "whole; free some space, then use --resume"
            ) from problem
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        os.close(self._descriptor)
        if self._events is not None:
            self._events.close()


class NoLog(MetricsLog):
    """The log of a process that leaves writing to another."""

    has_events = True
    bytes_written = 0

    def __init__(self) -> None: ...

    def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the lines of a run's log, oldest first; of one that is growing the whole lines.

    Raises:
        TrainingError: a line is damaged.
    """
    if not folder.metrics.exists():
        return []
    try:
        return [json.loads(line) for line in folder.metrics.read_bytes().split(b"\n")[:-1] if line]
    except ValueError:
        raise TrainingError(
            f"{folder.metrics} has a damaged line; restore it, or start a new run"
        ) from None


def _event_writer(path: Path, step: int) -> Any:
    """Return TensorBoard's writer, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path), purge_step=step + 1 if step else None)


def origin() -> dict[str, str]:
    """Return the commit of this code, where it can be known, the machine and the versions."""
    facts = {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
