"""Signals to a serving process before its server runs.

Loading torch takes seconds; a process that is told to stop meanwhile must exit cleanly.
"""

import signal
import sys


def handle_signals_before_serving() -> None:
    """End the process well on SIGTERM and ignore SIGHUP, until the server has its own handlers."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
