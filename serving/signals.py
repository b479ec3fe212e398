"""What signals do to a serving process before its server is there.

Loading torch takes seconds, and a process that is told to end meanwhile shall end well.
"""

import signal
import sys


def take_early_signals() -> None:
    """Set what signals do until the server has its own handlers: end it well, or nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
