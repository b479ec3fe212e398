"""A Ray node of this machine, for the tests of one process."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving.conftest import live, tiny_checkpoint

__all__ = ["live", "tiny_checkpoint"]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0  # seconds: Ray's processes import much, on a machine that may be busy
STARTS = 3  # there a node may give up before its own agent has come
PROCESSORS = 8  # so many there seem to be: what computes little need not wait for the others
AGENTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "metrics-export", "runtime-env-agent")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a node with token authentication, which this process is connected to.

    Programs that tests start find address and token in the environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # paths of sockets must be short
    (folder / "token").write_text("a-token-of-the-tests-which-is-long-enough\n")
    with pytest.MonkeyPatch.context() as patches:
        for name, value in {
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.ray_proxy:middleware",
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_agent_register_timeout_ms": "300000",
            "RAY_worker_niceness": "0",
        }.items():
            patches.setenv(name, value)
        is_imported = "ray" in sys.modules
        ray = pytest.importorskip("ray")
        if is_imported:  # then it has read the environment already
            from ray._raylet import Config

            Config.initialize("")
        node, address = started_node(folder / "session")
        patches.setenv("RAY_ADDRESS", address)
        try:
            ray.init(address=address, log_to_driver=False)
            yield address
            ray.shutdown()
        finally:
            end(node)
    shutil.rmtree(folder, ignore_errors=True)


def started_node(folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Return a node that has begun, whose processes end with this one, and its address."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"),
        *(f"--num-cpus={PROCESSORS}", f"--object-store-memory={200 << 20}"),
        *("--include-dashboard=false", f"--temp-dir={folder}"),
        # With ports of their own the node need not wait for its agents, which import for long.
        *(f"--{name}-port={port}" for name, port in zip(AGENTS, free_ports(), strict=True)),
    ]
    for _ in range(STARTS):
        with (folder.parent / "start.log").open("wb") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        said = folder.parent / "start.log"
        limit = time.monotonic() + PATIENCE
        while node.poll() is None and time.monotonic() < limit:
            if b"Ray runtime started" in said.read_bytes():
                return node, (folder / "ray_current_cluster").read_text().strip()
            time.sleep(0.2)
        end(node)
    raise AssertionError(said.read_text())


def free_ports() -> list[int]:
    """Return a port that nobody listens on for each of the agents."""
    with contextlib.ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in AGENTS]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in bound]


def end(node: "subprocess.Popen[bytes]") -> None:
    """Kill a node's processes: to let their work finish would take half a minute."""
    found = [psutil.Process(node.pid)] if node.poll() is None else []
    for process in [child for one in found for child in one.children(recursive=True)] + found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()
