"""Rate limit: how many guarded requests a client may send in a moving window of time."""

import math
import time
from pathlib import Path

from limits import parse_many
from limits.storage import MemoryStorage, MovingWindowSupport

from serving.middleware.shared_rates import SharedHits
from serving.problems import Problem


class RateLimit:
    """Counts the requests of each client; the same for all workers that share `shared_folder`."""

    def __init__(self, rates: str, shared_folder: Path | None) -> None:
        self.rates = parse_many(rates)
        self.hits: MovingWindowSupport = (
            MemoryStorage() if shared_folder is None else SharedHits(shared_folder)
        )

    def count(self, client: str) -> None:
        """Count a request, or raise `rate_limited` where it is one too many."""
        for rate in self.rates:
            window = (rate.key_for(client), rate.amount, rate.get_expiry())
            if not self.hits.acquire_entry(*window):
                began, _ = self.hits.get_moving_window(*window)
                seconds = began + rate.get_expiry() - time.time()
                raise Problem(
                    "rate_limited",
                    f"this client has sent more than {rate}; wait",
                    retry_after_seconds=max(1, math.ceil(seconds)),
                )
