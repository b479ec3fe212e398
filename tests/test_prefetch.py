"""Working ahead changes neither the order nor the place of an error, and can be ended."""

import threading
from collections.abc import Iterator

import pytest

from captioner.prefetch import prefetched


def test_order_is_kept() -> None:
    assert list(prefetched(range(100), depth=3)) == list(range(100))


def test_an_error_comes_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("broken")

    seen = []
    with pytest.raises(OSError, match="broken"):
        for item in prefetched(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_it_works_ahead_by_the_depth_and_no_further() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if len(made) == 4:  # one taken, two waiting, one in the hand
                enough.set()
            yield number

    source = prefetched(items(), depth=2)
    assert next(source) == 0
    assert enough.wait(timeout=5)
    source.close()
    assert len(made) == 4


def test_closing_ends_the_thread() -> None:
    source = prefetched(iter(int, 1))
    next(source)
    source.close()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())
