"""The service under test: started here or already running, and the state of its processes.

Its log goes to a file. The file shows what no client can see: which requests the service accepted,
and whether anything failed unexpectedly. A service that is already running, given by address and
process number, shows everything but its log.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil

from captioner.errors import ToolError

START_SECONDS = 180.0
END_SECONDS = 60.0
MIB = 1 << 20
DECODER, WORKER = "serving.images.decode_worker", "multiprocessing.forkserver"


@dataclass(frozen=True)
class Levels:
    """What the service's processes hold together."""

    memory_mib: float  # their own, not that of files; pages that processes share count once
    descriptors: int
    threads: int
    processes: int

    def text(self) -> dict[str, Any]:
        return {**asdict(self), "memory_mib": round(self.memory_mib, 1)}


class Target:
    """A running service."""

    def __init__(self, url: str, pid: int, log: Path | None, process: Any = None) -> None:
        parts = urlsplit(url)
        self.url = url
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.process = process
        self._main = psutil.Process(pid)
        self._log = log

    @property
    def pid(self) -> int:
        return self._main.pid

    @property
    def has_log(self) -> bool:
        return self._log is not None

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        if self._log is None:
            return []
        text = self._log.read_text(encoding="ascii", errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def answered(self) -> Counter[str]:
        """Return how often the log has each request that was answered with captions."""
        return Counter(
            line["request_id"]
            for line in self.log_lines()
            if line.get("event") == "request" and line["status"] == 200 and line["method"] == "POST"
        )

    def failures(self) -> list[str]:
        """Return what the log has that should never be there."""
        return [
            str(line)[:300]
            for line in self.log_lines()
            if line.get("level") in ("error", "critical") or "exception" in line
        ]

    def decoders(self) -> list[int]:
        return [one.pid for one in self._tree() if DECODER in _command(one)]

    def workers(self) -> list[int]:
        """Return the serving processes below a supervisor, which share a fork server."""
        return [
            one.pid
            for one in self._tree()
            if WORKER in _command(one) and any(DECODER in _command(two) for two in _children(one))
        ]

    def connections(self, pid: int) -> int:
        """Return how many clients one process is connected with."""
        return sum(
            one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.address[1]
            for one in psutil.Process(pid).net_connections("tcp")
        )

    def levels(self) -> Levels:
        memory = descriptors = threads = processes = 0
        for one in self._tree():
            with suppress(psutil.Error, OSError):
                memory += _proportional_bytes(one.pid)
                descriptors += one.num_fds()
                threads += one.num_threads()
                processes += 1
        return Levels(memory / MIB, descriptors, threads, processes)

    def settled_levels(self, least_seconds: float = 8.0) -> Levels:
        """Return the levels when connections have had time to end."""
        time.sleep(least_seconds)
        return self.levels()

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        with urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_until_ready(self, seconds: float = START_SECONDS) -> float:
        """Return after how many seconds it is ready."""
        began = time.monotonic()
        while not self.is_ready():
            if self.process is not None and self.process.poll() is not None:
                raise ToolError(f"the service ended with status {self.process.returncode}")
            if time.monotonic() - began > seconds:
                raise ToolError(f"the service is not ready after {seconds:g} seconds")
            time.sleep(0.05)
        return time.monotonic() - began

    def send(self, number: int) -> None:
        self._main.send_signal(number)

    def _tree(self) -> list[psutil.Process]:
        return [self._main, *self._main.children(recursive=True)]


@contextmanager
def started(checkpoint: Path, *arguments: str) -> Iterator[Target]:
    """Start a service on a free port, and end it whatever happens.

    Raises:
        ToolError: it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="captioner-stress-") as folder:
        log = Path(folder) / "log"
        errors = Path(folder) / "errors"
        command = [sys.executable, "-m", "serving", "--checkpoint", str(checkpoint), "--port", "0"]
        with log.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen([*command, *arguments], stdout=out, stderr=err)
        try:
            target = Target(_url(log, errors, process), process.pid, log, process)
            target.wait_until_ready()
            yield target
        finally:
            _end(process)


def found(url: str, pid: int) -> Target:
    """Return a service that somebody else started."""
    target = Target(url.rstrip("/"), pid, None)
    target.wait_until_ready(10.0)
    return target


def _url(log: Path, errors: Path, process: "subprocess.Popen[bytes]") -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text(encoding="ascii").splitlines():
            if line.endswith("}") and (url := json.loads(line).get("url")):
                return str(url)
        time.sleep(0.05)
    raise ToolError(f"the service does not start: {errors.read_text()[-500:].strip()}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(process: psutil.Process) -> Sequence[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _proportional_bytes(pid: int) -> int:
    """Return the memory that a process holds itself.

    Pages of files, such as PyTorch's libraries, are left out: how they are shared out changes with
    whoever else on the machine happens to use the same file.
    """
    own = 0
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith(("Pss_Anon:", "Pss_Shmem:", "SwapPss:")):
                own += int(line.split()[1]) * 1024
    return own


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    return {"cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0]}
