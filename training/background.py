"""Commands that go on for hours without their terminal, at the lowest priority, with a log."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from training.run_folder import RunFolder

FLAG = "--background"
_LOWEST_PRIORITY = 19


def run_in_background(command: Sequence[str], out: Path, name: str) -> "subprocess.Popen[bytes]":
    """Start a command, without its `--background`, that trains in the folder `out`; return it.

    It says how to follow and to stop it; its output goes to a log in that folder.

    Raises:
        TrainingError: another process trains there.
        StorageError: the folder cannot be made.
    """
    log = out / f"{name}.log"
    with RunFolder(out).locked():  # refused here, where it is read
        log.touch()

    def lowest_priority() -> None:
        os.nice(_LOWEST_PRIORITY)
        keep_niceness_in_group()

    with open(log, "ab") as output:
        process = subprocess.Popen(
            [word for word in command if word != FLAG],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lowest_priority,
        )
    print(f"in the background, process {process.pid}; it writes to {log}")
    print(f"  tail -f {log}   shows how far it is, and the time left")
    print(f"  kill {process.pid}   stops it and its trainings; the same command goes on")
    return process


def keep_niceness_in_group() -> None:
    """Give this session's scheduling group the niceness of its process, where Linux has groups.

    In a group of its own, which every new session gets, a process's niceness counts for nothing.
    """
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(os.nice(0)))
