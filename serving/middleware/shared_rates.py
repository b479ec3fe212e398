"""Request counts shared by all workers, so that a rate limit does not depend on their number.

A storage for the moving window of `limits`, on an SQLite file in the folder that the workers of one
supervisor share. It is exact across processes, and stays valid when one is killed in the middle. A
hit costs some hundred microseconds.
"""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from limits.storage import MovingWindowSupport

FILE = "rates.sqlite"
WAIT_SECONDS = 1.0  # for another worker that counts; the event loop stands still meanwhile
HITS_BETWEEN_PURGES = 1000


class SharedHits(MovingWindowSupport):
    """The hits of each key, with their times."""

    wrap_exceptions = False

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(
            folder / FILE, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")  # it need not outlive the machine
        self._connection.execute("CREATE TABLE IF NOT EXISTS hits (key TEXT, at REAL, until REAL)")
        self._connection.execute("CREATE INDEX IF NOT EXISTS of_key ON hits (key, at)")
        self._hits = 0

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit and return True, or return False where the window is full."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # too many count at once: no reason to refuse anybody
            return True
        try:
            now = time.time()
            _, count = self.get_moving_window(key, limit, expiry)
            if count + amount > limit:
                return False
            rows = [(key, now, now + expiry)] * amount
            self._connection.executemany("INSERT INTO hits VALUES (?, ?, ?)", rows)
            self._hits += amount
            if self._hits >= HITS_BETWEEN_PURGES:
                self._hits = 0
                self._connection.execute("DELETE FROM hits WHERE until <= ?", (now,))
            return True
        finally:
            with suppress(sqlite3.OperationalError):
                self._connection.execute("COMMIT")

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002
        """Return when the oldest hit of the window was, and how many there are."""
        now = time.time()
        (found,) = self._connection.execute(
            "SELECT min(at), count(*) FROM hits WHERE key = ? AND at > ?", (key, now - expiry)
        )
        return (now if found[0] is None else found[0]), found[1]
