"""Requests to the service on a Ray cluster while a replica of the model, and of the ingress, die.

`check_traffic` deploys the service, sends photographs from several clients, kills both replicas and
counts. Every request has an id of its own and must get one answer, which bears it: captions, or 503
with the time to wait. A second answer on a connection would be taken for that of the next request,
whose id it does not have.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

if TYPE_CHECKING:
    from cluster.nodes import Cluster

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPH = ROOT / "serving" / "page" / "examples"
CLIENTS = 4
BEFORE, AFTER = 20, 40  # answers before a replica is killed, and after
PATIENCE = 300.0  # seconds: a replica is a new process, which imports everything
PORT = 8199


def check_traffic(cluster: "Cluster", folder: Path) -> dict[str, Any]:
    """Return what became of the requests, and whether all of them were answered as they should."""
    log = folder / "traffic.log"
    with log.open("wb") as stream:
        done = subprocess.run(
            cluster.command([sys.executable, str(Path(__file__).resolve())]),
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=stream,
            check=False,
        )
    lines = done.stdout.decode().splitlines()
    if done.returncode or not lines:
        return {"passed": False, "reason": f"the service was not served; see {log}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


class Clients:
    """Clients that ask again and again on connections that stay, and what became of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._photographs = [path.read_bytes() for path in sorted(PHOTOGRAPH.glob("*.jpg"))]
        self.answers: Counter[str] = Counter()
        self.longest_seconds = 0.0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            for data in iter(self._next, None):
                began = time.monotonic()
                self.answers[self._answer(client, data)] += 1
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def _next(self) -> bytes | None:
        number = self.answers.total() % len(self._photographs)
        return None if self._is_over.is_set() else self._photographs[number]

    def _answer(self, client: httpx.Client, data: bytes) -> str:
        sent = uuid.uuid4().hex
        try:
            answer = client.post(self._url, content=data, headers={"X-Request-ID": sent})
        except httpx.TransportError:
            return "lost"
        # Ray's proxy has no id to give where no replica answered.
        if answer.headers.get("x-request-id", sent) != sent:
            return "answer of another request"
        if answer.status_code == 503 and "retry-after" in answer.headers:
            time.sleep(0.2)
            return "refused 503"
        return "answered" if answer.is_success else f"failed {answer.status_code}"


def replicas(of: str) -> list[int]:
    """Return the processes of a deployment's replicas in the cluster of this environment."""
    title, token = f"ray::ServeReplica:default:{of}", os.environ["RAY_AUTH_TOKEN_PATH"]
    found = []
    for process in psutil.process_iter():
        try:
            is_it = title in " ".join(process.cmdline())
            if is_it and process.environ().get("RAY_AUTH_TOKEN_PATH") == token:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"waited for more than {PATIENCE:g} seconds")
        time.sleep(0.1)


def main() -> int:
    """Deploy, ask, kill and count in the cluster of this environment; print one line of JSON."""
    import ray
    from ray import serve

    from serving.ray_app import app

    ray.init(log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(app({"decode_workers": 1, "request_timeout_seconds": PATIENCE}))
    url = f"http://127.0.0.1:{PORT}"
    wait_until(lambda: httpx.get(url + "/health/ready", timeout=PATIENCE).is_success)
    began, waits = time.monotonic(), {}
    with Clients(url + "/caption") as clients:
        for deployment in ("model", "ingress"):
            wait_until(lambda: clients.answers["answered"] >= BEFORE)
            victim = replicas(deployment)[0]
            clients.longest_seconds, before = 0.0, clients.answers["answered"]
            os.kill(victim, signal.SIGKILL)
            enough = before + AFTER
            wait_until(lambda enough=enough: clients.answers["answered"] >= enough)  # type: ignore[misc]
            waits[f"longest wait, a replica of the {deployment} killed (s)"] = round(
                clients.longest_seconds, 1
            )
    counts = dict(clients.answers)
    figures = {
        "requests": clients.answers.total(),
        "answered once": counts.pop("answered", 0),
        "told 503": counts.pop("refused 503", 0),
        "lost": counts.pop("lost", 0),
        "answered twice": counts.pop("answer of another request", 0),
        "seconds": round(time.monotonic() - began, 1),
        **waits,
        **counts,
    }
    figures["passed"] = not (figures["lost"] or figures["answered twice"] or counts)
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
