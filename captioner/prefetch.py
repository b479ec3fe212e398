"""An iterator that works ahead in a background thread."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterable[Item], depth: int = 2) -> Generator[Item]:
    """Yield `items` in their order, while up to `depth` of the next wait and one is being made.

    An error in making them is raised here, at its place in the order. Closing this generator
    ends the thread.
    """
    remaining, end = iter(items), object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def begin() -> Future[Item]:
        return pool.submit(next, remaining, end)  # type: ignore[arg-type]

    try:
        ahead = deque(begin() for _ in range(depth + 1))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(begin())
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
