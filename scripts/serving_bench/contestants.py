"""Contestants of `bench_serving.py`: servers in processes of their own, stopped while they wait."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil

from captioner.errors import ToolError

START_SECONDS = 60.0
MIB = 1024 * 1024
SCRIPTS = Path(__file__).resolve().parent.parent
SERVICE, PLAIN, TORCH, LITSERVE = "service", "fastapi", "torch", "litserve"


@dataclass
class Contestant:
    """One server, by its command; PORT in it is replaced."""

    name: str
    command: Sequence[str]
    environ: dict[str, str]
    clients: int = 48  # that keep it busy, though they are niced
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/caption"

    def start(self, probe: Request) -> None:
        """Start it, and return when it captions.

        Raises:
            ToolError: it does not.
        """
        self.port = _free_port()
        command = [str(self.port) if part == "PORT" else part for part in self.command]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **self.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        if not self.answers(probe, START_SECONDS):
            self.stop()
            raise ToolError(f"{self.name} does not caption after {START_SECONDS:g} seconds")

    def answers(self, probe: Request, most_seconds: float) -> bool:
        """Say whether it captions, within so many seconds."""
        end = time.monotonic() + most_seconds
        while time.monotonic() < end:
            try:
                probe.full_url = self.url
                with urlopen(probe, timeout=max(0.1, end - time.monotonic())) as answer:
                    return bool(answer.status == 200)
            except HTTPError as refused:
                refused.close()
            except (URLError, OSError):
                if self.process is not None and self.process.poll() is not None:
                    return False
            time.sleep(0.05)
        return False

    def signal(self, number: int) -> None:
        """Signal all its processes."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def memory_mib(self) -> dict[str, float]:
        """Return what its processes hold: the sum of resident memory, and of their share of it."""
        assert self.process is not None
        main = psutil.Process(self.process.pid)
        sums = {"RSS": 0, "PSS": 0}
        for one in (main, *main.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                memory = one.memory_full_info()
                sums["RSS"] += memory.rss
                sums["PSS"] += memory.pss
        return {name: round(held / MIB, 1) for name, held in sums.items()}


def contestants(
    model: Path, checkpoint: Path | None, threads: int, max_batch: int, workers: int
) -> list[Contestant]:
    """Return all of them; they compute with the same number of threads.

    Without the `checkpoint` that `model` was exported from, the one by PyTorch is not among them.
    """
    python = sys.executable
    environ = {
        "MODEL": str(model),
        "THREADS": str(threads),
        "MAX_BATCH": str(max_batch),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS)]),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    litserve = os.environ.get("LITSERVE")  # a folder that it alone is installed in
    paths = [environ["PYTHONPATH"], *([] if litserve is None else [litserve])]
    beside = {"PYTHONPATH": os.pathsep.join(paths)}
    service = ["-m", "serving", "--checkpoint", str(model), "--port", "PORT"]
    service += ["--workers", str(workers), "--max-batch", str(max_batch)]
    uvicorn, quiet = ["-m", "uvicorn", "--port", "PORT"], ["--log-level", "warning"]
    plain, by_torch = (
        [python, *uvicorn, f"serving_bench.{name}_route:app", *quiet] for name in ("plain", "torch")
    )
    found = [
        Contestant(SERVICE, [python, *service, *quiet], environ),
        Contestant(PLAIN, plain, environ),
    ]
    if checkpoint is not None:
        # With more, all threads of the pool compute at once, and none is done within a turn.
        beside_model = {**environ, "CHECKPOINT": str(checkpoint)}
        found.append(Contestant(TORCH, by_torch, beside_model, clients=4))
    litserve_route = [python, "-m", "serving_bench.litserve_route", "PORT"]
    return [*found, Contestant(LITSERVE, litserve_route, {**environ, **beside})]


def library_images_per_second(contestant: Contestant, photo: Path, seconds: float) -> float:
    """Return what the library captions in a process of its own, with a contestant's variables."""
    command = [sys.executable, "-m", "serving_bench.library", str(photo), str(seconds)]
    environ = {**os.environ, **contestant.environ}
    found = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ToolError(f"the library does not caption: {found.stderr.strip()[-300:]}")
    return float(found.stdout)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
