"""The benchmark of a training step: what is a fair share, and one round at a size of seconds."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TINY = [
    *("--feature-size", "8", "--positions", "4", "--vocabulary-size", "40", "--batch-size", "2"),
    *("--textbook-captions", "4", "--rounds", "1", "--warmup", "0", "--threads", "1"),
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_training

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return bench_training


@pytest.mark.parametrize(
    ("threads", "others", "cores", "share"),
    [(2, 0, 2, 1), (2, 2, 2, 0.5), (2, 1, 4, 1), (1, 1, 1, 0.5), (4, 4, 2, 0.5), (2, 4, 3, 0.5)],
)
def test_a_fair_share_is_that_of_equal_threads(
    bench: ModuleType, threads: int, others: int, cores: int, share: float
) -> None:
    assert bench.fair_share(threads, others, cores) == share


def test_our_step_is_timed_alone_and_beside_others(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(bench, "LEAST_KEPT", 0.0)
    file = tmp_path / "bench.json"
    assert bench.main([*TINY, "--beside", "1", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "beside 1 others" in said
    assert "fair share: " in said
    assert file.exists()
    monkeypatch.setattr(bench, "LEAST_KEPT", 1e9)
    assert bench.main([*TINY, "--beside", "1"]) == 1


def test_it_is_timed_against_the_textbook(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(TINY) == 0
    assert "ours, p = 0.4" in capsys.readouterr().out
    assert bench.main(["--rounds", "0"]) == 2
    assert "--rounds is 0; it must be at least 1" in capsys.readouterr().err
