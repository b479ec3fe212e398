"""Iterator that works ahead in a background thread."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1  # how often a full queue looks whether anybody still listens


def prefetched(items: Iterable[Item], depth: int = 2) -> Generator[Item]:
    """Yield `items` in their order, while up to `depth` of the next are being made.

    An error in making them is raised here, at its place in the order. Closing this generator
    ends the thread.
    """
    ready: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not is_closed.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
        except BaseException as problem:
            put("problem", problem)
        else:
            put("end", None)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "problem":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        is_closed.set()
        thread.join()
