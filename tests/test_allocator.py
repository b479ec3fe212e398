"""Freed memory is reused without new pages; tried in a process of its own, which it changes."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import resource, sys
    import numpy as np
    from captioner.allocator import keep_freed_memory

    def new_pages():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            np.full(60_000_000, 1, np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    before = new_pages()
    kept = keep_freed_memory()
    new_pages()
    print(int(kept), before, new_pages())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_large_blocks_are_reused_without_new_pages() -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    is_kept, before, after = map(int, result.stdout.split())
    if not is_kept:
        pytest.skip("another C library")
    assert before > 100  # 60 MB: 15,000 small pages, or 29 huge ones, four times
    assert after < before / 10
