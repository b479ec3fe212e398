"""Count of the requests that the connection refuses, in the metrics and once a second in the log.

Refusing must cost far less than captioning, or a service with too many requests does nothing else.
So a refusal adds one to a number, and that is all.
"""

import time
from collections import Counter

import structlog

from serving.problems import KINDS
from serving.telemetry.metrics import Metrics

SECONDS_BETWEEN_LINES = 1.0
LINES_EACH_SECOND = 10  # of single refusals

log = structlog.get_logger("serving.connection.refusals")


class Refusals:
    """The refusals of one process. It belongs to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._uncounted: Counter[tuple[str, str | None]] = Counter()  # by code and path
        self._unlogged: Counter[str] = Counter()
        self._lines = LINES_EACH_SECOND
        self._last_line = time.monotonic()

    def add(self, code: str, path: str | None = None) -> None:
        """Count one; `path` is that of a route, where the request is known to be for one."""
        self._uncounted[code, path] += 1

    def add_single(self, code: str, *, client: str | None, request_id: str) -> None:
        """Count one that has a line of its own in the log, unless there are too many of them."""
        if self._lines > 0:
            self._lines -= 1
            self._metrics.rejected.labels(code).inc()
            log.info("refused", code=code, client=client, id=request_id)
        else:
            self.add(code)

    def publish(self) -> None:
        """Bring the metrics up to date."""
        counts, self._uncounted = self._uncounted, Counter()
        for (code, path), number in counts.items():
            self._metrics.rejected.labels(code).inc(number)
            if path is not None:
                status = str(KINDS[code].status)
                self._metrics.requests.labels("POST", path, status).inc(number)
            self._unlogged[code] += number

    def tick(self) -> None:
        """Sum up in the log, once a second, what was refused without a line."""
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self.sum_up(now - self._last_line)
            self._last_line = now

    def sum_up(self, seconds: float | None = None) -> None:
        """Write that line now."""
        self._lines = LINES_EACH_SECOND
        self.publish()
        if self._unlogged:
            codes, self._unlogged = dict(self._unlogged), Counter()
            took = None if seconds is None else round(seconds, 2)
            log.warning("refused", number=sum(codes.values()), codes=codes, seconds=took)
