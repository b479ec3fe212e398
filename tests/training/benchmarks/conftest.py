"""A copying run of a second, in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from training.copying import main

TINY_COPYING = [
    *("--delay", "4", "--symbols", "2", "--hidden-size", "8", "--batch-size", "10"),
    *("--updates", "12", "--epochs", "3", "--threads", "1", "--device", "cpu"),
]


@pytest.fixture
def tiny_copying() -> list[str]:
    return list(TINY_COPYING)


@pytest.fixture
def copy_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Run the copying script in this process and in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield lambda *words: main([str(word) for word in words])
    torch.set_num_threads(threads)
