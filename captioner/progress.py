"""Progress of long work: a live bar on a terminal, a plain line now and then elsewhere.

Both show the count, the rate, the time left and figures such as the loss. Plain lines come at the
start, at the end and at most every ten seconds in between, so a log stays readable.
"""

import sys
import time
from typing import Any, Self, TextIO

_LINE_EVERY_SECONDS = 10.0


class Progress:
    """A context manager around a loop that reports how far it has come.

    `total` is the number of units the work ends at, None where that is unknown; `initial` counts
    what an earlier process did, which is shown but does not enter the rate. Without `stream` the
    report goes to standard error; with `enabled=False` nowhere.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        *,
        unit: str = "",
        enabled: bool = True,
        initial: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self.total = total
        self.description = description
        self.unit = unit
        self.count = initial
        self._initial = initial
        self._enabled = enabled
        self._stream = sys.stderr if stream is None else stream
        self._figures: dict[str, float | str] = {}
        self._bar: Any = None
        self._started = self._last_line = time.monotonic()
        self._reported_count: int | None = None

    def __enter__(self) -> Self:
        if not self._enabled:
            return self
        self._started = time.monotonic()
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total,
                desc=self.description,
                unit=f" {self.unit}" if self.unit else "",
                initial=self.count,
                file=self._stream,
                dynamic_ncols=True,
            )
        else:
            self._write_line()
        return self

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """Count `count` more units as done, and show `figures` from now on."""
        self.count += count
        self._figures.update(figures)
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures_text(), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._write_line()

    def expect(self, total: int | None) -> None:
        """Say that the work ends at `total`, where that was unknown or a guess."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._enabled and self._reported_count != self.count:
            self._write_line()

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        self._reported_count = self.count
        print(self._line(self._last_line - self._started), file=self._stream, flush=True)

    def _line(self, elapsed_seconds: float) -> str:
        of_total = "" if self.total is None else f"/{self.total:,}"
        parts = [f"{self.description}: {self.count:,}{of_total} {self.unit}".rstrip()]
        done = self.count - self._initial
        if done > 0 and elapsed_seconds > 0:
            rate = done / elapsed_seconds
            parts.append(f"{rate:.3g}/s" if rate < 100 else f"{rate:,.0f}/s")
            if self.total is None or self.count >= self.total:
                parts.append(f"took {duration(elapsed_seconds)}")
            else:
                parts.append(f"{duration((self.total - self.count) / rate)} left")
        if self._figures:
            parts.append(self._figures_text())
        return ", ".join(parts)

    def _figures_text(self) -> str:
        return ", ".join(
            f"{name} {figure if isinstance(figure, str) else format(figure, '.4g')}"
            for name, figure in self._figures.items()
        )


def duration(seconds: float) -> str:
    """Return a span of time as a person says it: "45 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
