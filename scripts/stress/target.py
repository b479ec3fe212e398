"""The service under test: started here or already running, and the state of its processes.

Its log goes to a file. The file shows what no client can see: which requests the service accepted,
and whether anything failed unexpectedly. A service that is already running, given by address and
process number, shows everything but its log.
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil

from captioner.errors import ToolError
from stress import StressOptions

START_SECONDS = 180.0
END_SECONDS = 60.0
MIB = 1 << 20
DECODER, WORKER = "captioner.sandbox.decode_worker", "multiprocessing.forkserver"


class Levels(NamedTuple):
    """What the service's processes hold together."""

    memory_mib: float  # their own, not that of files; pages that processes share count once
    descriptors: int
    threads: int
    processes: int


class Target:
    """A running service."""

    def __init__(self, url: str, pid: int, log: Path | None, process: Any = None) -> None:
        parts = urlsplit(url)
        self.url = url
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.log, self.process = log, process
        self.main = psutil.Process(pid)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        return [] if self.log is None else _json_lines(self.log)

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
        return [pid for pid, _, command in self._commands() if DECODER in command]

    def workers(self) -> list[int]:
        """Return the serving processes below a supervisor, which share a fork server."""
        commands = self._commands()
        decoding = {parent for _, parent, command in commands if DECODER in command}
        return [pid for pid, _, command in commands if WORKER in command and pid in decoding]

    def _commands(self) -> list[tuple[int, int, str]]:
        """Return the number, the parent's number and the command of each process."""
        found = []
        for one in self._tree():
            with suppress(psutil.Error):
                found.append((one.pid, one.ppid(), " ".join(one.cmdline())))
        return found

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
                memory += _own_bytes(one.pid)
                descriptors += one.num_fds()
                threads += one.num_threads()
                processes += 1
        return Levels(memory / MIB, descriptors, threads, processes)

    async def settled_levels(self, least_seconds: float = 8.0) -> Levels:
        """Return the levels when connections have had time to end."""
        await asyncio.sleep(least_seconds)
        return await asyncio.to_thread(self.levels)

    def metric(self, name: str, labels: str = "") -> float:
        """Return the sum of a metric over its labels, or over those that hold some text."""
        with urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{.*{labels}.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _tree(self) -> list[psutil.Process]:
        return [self.main, *self.main.children(recursive=True)]


@contextmanager
def service(options: StressOptions, workers: int) -> Iterator[Target]:
    """Give the service that is asked for: a running one, or one that ends with the block.

    Raises:
        ToolError: it does not become ready.
    """
    if options.url is not None:
        assert options.pid is not None
        target = Target(options.url.rstrip("/"), options.pid, None)
        _wait_until_ready(target, 10.0)
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="captioner-stress-") as folder:
        log, errors = Path(folder, "log"), Path(folder, "errors")
        command = [sys.executable, "-m", "serving", "--checkpoint", str(options.checkpoint)]
        command += ["--port", "0", "--workers", str(workers)]
        with log.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            target = Target(_url(log, errors, process), process.pid, log, process)
            _wait_until_ready(target, START_SECONDS)
            yield target
        finally:
            process.terminate()  # nothing, if it has ended
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def seconds_until(condition: Callable[[], bool], most: float = 60.0) -> float:
    """Return after how many seconds something is so; infinity where it never is."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > most:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - began


def _wait_until_ready(target: Target, most: float) -> None:
    process = target.process
    seconds_until(lambda: target.is_ready() or (process and process.poll() is not None), most)
    if process is not None and process.poll() is not None:
        raise ToolError(f"the service ended with status {process.returncode}")
    if not target.is_ready():
        raise ToolError(f"the service is not ready after {most:g} seconds")


def _url(log: Path, errors: Path, process: "subprocess.Popen[bytes]") -> str:
    def urls() -> list[str]:
        return [line["url"] for line in _json_lines(log) if line.get("url")]

    seconds_until(lambda: bool(urls()) or process.poll() is not None, START_SECONDS)
    if process.poll() is None and urls():
        return urls()[0]
    raise ToolError(f"the service does not start: {errors.read_text()[-500:].strip()}")


def _json_lines(log: Path) -> list[dict[str, Any]]:
    text = log.read_text(encoding="ascii", errors="replace")
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _own_bytes(pid: int) -> int:
    """Return the memory that a process holds itself.

    Pages of files, such as PyTorch's libraries, are left out: how they are shared out changes with
    whoever else on the machine happens to use the same file.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    own = [line for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:", "SwapPss:"))]
    return sum(int(line.split()[1]) for line in own) * 1024
