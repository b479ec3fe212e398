"""Two Ray nodes on one machine, each in a network namespace of its own where that can be had.

Two namespaces with an address each are two machines for Ray: what goes from one to the other goes
over a network. They need root; without it both nodes share the machine's address. The nodes know
each other by a token that lies in a file, as on real machines.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from captioner.errors import ToolError

PORT = 6379
# Of a node's agents, the second node's 10 further: without them it waits for the agents to say
# theirs, which on a busy machine takes longer than it is patient.
AGENTS = {
    "dashboard-agent-grpc-port": 52501,
    "dashboard-agent-listen-port": 52502,
    "metrics-export-port": 52503,
    "runtime-env-agent-port": 52504,
}
START_SECONDS, STARTS = 180.0, 3  # a busy machine starts Ray slowly, and Ray gives up early
OBJECT_STORE = 200 << 20  # bytes; shards and counts are small
NAMES = ("captioner-head", "captioner-node")
DEVICES = ("captioner0", "captioner1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")


class Cluster:
    """A context manager around two nodes: one with the head, and one that can be killed."""

    def __init__(self, folder: Path, cores: int = 1) -> None:
        self._folder, self._cores = folder, cores
        self.has_namespaces = _make_namespaces()
        ip = ADDRESSES[0] if self.has_namespaces else "127.0.0.1"
        self.address = f"{ip}:{PORT}"
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_agent_register_timeout_ms": "300000",
            # Serve's proxies are started by the nodes, and read what these were started with.
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.ray_proxy:middleware",
        }
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start(0)
            self.start_worker_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._nodes):
            self._kill(number)
        if self.has_namespaces:
            _remove_namespaces()

    def command(self, words: Sequence[str], node: int = 0) -> list[str]:
        """Return the command that runs a program on the machine of a node."""
        prefix = ["ip", "netns", "exec", NAMES[node]] if self.has_namespaces else []
        return [*prefix, *words]

    def start_worker_node(self) -> None:
        """Start the second node, or start it again."""
        self._start(1)

    def kill_worker_node(self) -> int:
        """Kill every process of the second node at once; return how many there were."""
        return self._kill(1)

    def _start(self, number: int) -> None:
        ip = ADDRESSES[number] if self.has_namespaces else "127.0.0.1"
        words = ["start", "--block", "--node-ip-address", ip, "--num-cpus", str(self._cores)]
        words += ["--object-store-memory", str(OBJECT_STORE), "--disable-usage-stats"]
        words += [f"--{name}={port + 10 * number}" for name, port in AGENTS.items()]
        words += ["--address", self.address] if number else ["--head", "--port", str(PORT)]
        if not number:
            words += ["--include-dashboard", "false", "--temp-dir", str(self._folder / "ray")]
        for _ in range(STARTS):
            with open(self._folder / f"node-{number}.log", "ab") as log:
                self._nodes[number] = subprocess.Popen(
                    self.command([str(RAY), *words], number),
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                )
            if self._has_started(number):
                return
            self._kill(number)
        raise ToolError(f"node {number} does not start; see {self._folder}/node-{number}.log")

    def _has_started(self, number: int) -> bool:
        end = time.monotonic() + START_SECONDS
        log = self._folder / f"node-{number}.log"
        while time.monotonic() < end and self._nodes[number].poll() is None:
            if b"Ray runtime started" in log.read_bytes():
                return True
            time.sleep(0.2)
        return False

    def _kill(self, number: int) -> int:
        process = self._nodes.pop(number)
        # Ray's processes are in sessions of their own; they are below the one that was started.
        found = [psutil.Process(process.pid)] if process.poll() is None else []
        found += [child for one in found for child in one.children(recursive=True)]
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait()
        return len(found)


def _make_namespaces() -> bool:
    """Return whether there are now two namespaces, joined by a cable."""
    _remove_namespaces()
    head, node = NAMES
    cable = ["link", "add", DEVICES[0], "type", "veth", "peer", "name", DEVICES[1]]
    steps = [["netns", "add", head], ["netns", "add", node], cable]
    for name, device, address in zip(NAMES, DEVICES, ADDRESSES, strict=True):
        steps += [
            ["link", "set", device, "netns", name],
            ["-n", name, "addr", "add", f"{address}/24", "dev", device],
            ["-n", name, "link", "set", device, "up"],
            ["-n", name, "link", "set", "lo", "up"],
        ]
    if all(_ip(*step) for step in steps):
        return True
    _remove_namespaces()
    return False


def _remove_namespaces() -> None:
    for name in NAMES:
        _ip("netns", "del", name)
    _ip("link", "del", DEVICES[0])


def _ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0
    except OSError:  # there is no such program
        return False
