"""Folder in which the workers of one supervisor keep their counters.

Each supervisor makes a new one and holds a lock on it as long as one of its processes lives. The
next start removes folders whose lock is free, which killed supervisors left behind.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PREFIX = "captioner-metrics-"
LOCK = "in-use"


class MetricsFolder:
    """A folder that is in use until this process ends, however that comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BinaryIO = (path / LOCK).open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    @classmethod
    def make(cls) -> "MetricsFolder":
        """Return a new one, and remove those that nobody uses any more."""
        place = Path(tempfile.gettempdir())
        for old in place.glob(f"{PREFIX}*"):
            with suppress(OSError):  # another's, or in use, or gone meanwhile
                _remove_unused(old)
        return cls(Path(tempfile.mkdtemp(prefix=PREFIX, dir=place)))

    def drop(self) -> None:
        """Remove the folder."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_unused(path: Path) -> None:
    """Remove a folder of ours that no process holds; raise OSError where one does."""
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        return
    with (path / LOCK).open("rb") as lock:  # one without it is just being made
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
