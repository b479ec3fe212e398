"""Hits counted by several processes at once are those of one window, and none is lost."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from limits.storage import MemoryStorage

from serving.middleware import shared_rates
from serving.middleware.shared_rates import SharedHits

ROOT = Path(__file__).resolve().parents[3]
HITTING = """
import sys
from pathlib import Path
from serving.middleware.shared_rates import SharedHits
hits = SharedHits(Path(sys.argv[1]))
print(sum(hits.acquire_entry("client", 100, 600) for _ in range(60)))
"""


def test_processes_count_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HITTING, str(tmp_path)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert sum(int(one.communicate()[0]) for one in running) == 100
    assert SharedHits(tmp_path).get_moving_window("client", 100, 600)[1] == 100


def test_it_is_the_window_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = SharedHits(tmp_path), MemoryStorage()
    start, clock = time.time(), [0.0]
    monkeypatch.setattr(time, "time", lambda: start + clock[0])
    for second, client in enumerate("aabaabaabbaaaabbbab"):
        clock[0] = 3.9 * second
        window = (client, 3, 20)
        assert ours.acquire_entry(*window) == theirs.acquire_entry(*window), second
        mine, yours = (one.get_moving_window(*window) for one in (ours, theirs))
        assert mine[1] == yours[1]
        assert mine[0] == pytest.approx(yours[0], abs=1e-3)


def test_old_hits_do_not_stay_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rates, "HITS_BETWEEN_PURGES", 10)
    hits, start = SharedHits(tmp_path), time.time()
    for second in range(100):
        monkeypatch.setattr(time, "time", lambda now=start + second: now)
        assert hits.acquire_entry(f"client {second}", 1, 20)
    (rows,) = hits._connection.execute("SELECT count(*) FROM hits")
    assert 20 <= rows[0] <= 31
