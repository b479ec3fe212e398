"""Ctrl-C and SIGTERM, handled as a request to stop after the current step."""

import os
import signal
import sys
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context manager in which the first signal is noted and the second one kills at once."""

    def __init__(self, *, is_announced: bool = True) -> None:
        self.is_requested = False
        self._is_announced = is_announced
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.is_requested = True
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if not self._is_announced:
            return
        name = signal.Signals(number).name
        # Not print(): the signal may have come in the middle of one.
        os.write(
            sys.stderr.fileno(),
            f"\n{name}: finishing this step, then saving; once more quits at once\n".encode(),
        )
