"""Structured logs: one JSON object per line on standard output, one line per request.

JSON in ASCII escapes every control character, so nothing that a client sends can forge a line or
reach a terminal. A separate thread writes the lines. If the reader stalls, lines are dropped and
counted; requests never wait for it.
"""

import logging
import queue
import sys
import threading
from typing import TextIO

import structlog

WAITING_LINES = 10_000
CLOSING_SECONDS = 1.0
_UVICORN_SAYS = frozenset({"uvicorn", "uvicorn.error"})


def configure_logs(level: str, stream: TextIO | None = None) -> "LineWriter":
    """Send all logs of this process, uvicorn's too, as JSON lines to `stream` (standard output)."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    writer = LineWriter(stream or sys.stdout)
    writer.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(sort_keys=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [writer]
    root.setLevel(level.upper())
    for name in _UVICORN_SAYS:  # its news and warnings about requests are lines of ours already
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)
    return writer


class LineWriter(logging.Handler):
    """A handler that never waits: a full queue drops the line and counts it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() < WAITING_LINES:
            self._lines.put(self.format(record))
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for a second at most."""
        if self._lines.qsize() >= WAITING_LINES:
            return
        self._lines.put(None)
        self._thread.join(CLOSING_SECONDS)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    self._stream.write(f'{{"event": "log lines dropped", "number": {dropped}}}\n')
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more; the service goes on
                continue
