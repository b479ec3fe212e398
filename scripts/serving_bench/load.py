"""Load on a contestant by h2load (nghttp2), and what became of each request.

Open loop: a new connection for every request, at a steady rate, whatever the answers. h2load runs
niced, since it shares the machine, and logs each request's start, status and duration.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from captioner.errors import ToolError

H2LOAD = "h2load"
NICE = 19
BOUNDARY = "bench-serving"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
LEAST_PERIOD_MS = 10  # shorter ones h2load does not keep


@dataclass(frozen=True)
class Answers:
    """What came of the requests of one run; times in seconds."""

    offered: float  # requests per second
    seconds: float  # in which requests were sent
    ok: list[float]  # what those with captions took
    refused: list[float]  # those with 429
    failed: int  # any other status, or none in time
    in_time: int  # with captions, within the deadline and the run

    @property
    def goodput(self) -> float:
        """Captions per second that came within the deadline, while requests were being sent."""
        return self.in_time / self.seconds

    def milliseconds(self, share: float, *, refused: bool = False) -> float | None:
        """Return the time that `share` of the answers did not exceed."""
        times = sorted(self.refused if refused else self.ok)
        return 1000 * times[min(len(times) - 1, int(share * len(times)))] if times else None


def form_of(photo: bytes) -> bytes:
    """Return a form with the photograph in the field `image`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
    return (
        (head + "Content-Type: image/jpeg\r\n\r\n").encode()
        + photo
        + (f"\r\n--{BOUNDARY}--\r\n".encode())
    )


def check_h2load() -> None:
    """Raise ToolError where it is not installed."""
    if shutil.which(H2LOAD) is None:
        raise ToolError("h2load is not installed; apt-get install nghttp2-client")


def capacity(url: str, body: Path, seconds: float, clients: int) -> float:
    """Return the captions per second of as many clients as keep it busy, each asking again."""
    rows, began = _run(url, body, [f"-c{clients}", f"-D{seconds:g}", "--warm-up-time=1"])
    ends = [start + took for start, status, took in rows if status == 200]
    if not ends:
        statuses = sorted({status for _, status, _ in rows})
        raise ToolError(f"{url} captions nothing in {seconds:g} s; it answers {statuses}")
    return sum(end > began for end in ends) / (max(ends) - began)


def at_a_rate(url: str, body: Path, rate: float, seconds: float, deadline: float) -> Answers:
    """Return what came of requests sent at a steady rate; those beyond the deadline are given up.

    The rate is the nearest one that h2load has: so many connections every so many milliseconds.
    """
    each = max(1, round(rate * LEAST_PERIOD_MS / 1000))
    period = round(1000 * each / rate)
    count = max(1, round(seconds * 1000 / period)) * each
    rows, began = _run(
        url,
        body,
        [
            f"-n{count}",
            f"-c{count}",
            f"-r{each}",
            f"--rate-period={period}ms",
            f"-T{deadline:g}",
        ],
    )
    sent = count / each * period / 1000
    ok = [took for _, status, took in rows if status == 200]
    refused = [took for _, status, took in rows if status == 429]
    in_time = sum(
        status == 200 and took <= deadline and start + took - began <= sent
        for start, status, took in rows
    )
    return Answers(1000 * each / period, sent, ok, refused, count - len(ok) - len(refused), in_time)


def _run(url: str, body: Path, options: list[str]) -> tuple[list[tuple[float, int, float]], float]:
    """Return start, status and duration of each request, and when the first was sent."""
    with tempfile.TemporaryDirectory(prefix="captioner-bench-") as folder:
        log = Path(folder, "log")
        command = ["nice", f"-n{NICE}", H2LOAD, "--h1", "-t1", *options]
        command += [f"--data={body}", f"--header=content-type: {KIND}", f"--log-file={log}", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolError(f"h2load ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        rows = []
        for line in log.read_text(encoding="ascii").splitlines():
            start, status, took = line.split("\t")[:3]
            rows.append((int(start) / 1e6, int(status), int(took) / 1e6))
    return rows, min((start for start, _, _ in rows), default=0.0)
