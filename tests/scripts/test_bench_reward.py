"""The benchmark of the reward: both sides agree on the same captions and are timed."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from captioner.data.shapes import generate

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_reward

    return bench_reward


def test_both_give_the_same_scores(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generate(tmp_path / "shapes", seed=0, sizes=(60, 2, 2))
    assert bench.main(["--data", str(data), "--images", "50"]) == 0
    printed = capsys.readouterr().out
    assert "document frequencies of 50 images" in printed
    assert len(re.findall(r"[\d,]+ captions/s", printed)) == 3
    differences = re.findall(r"difference of a score: (\S+)", printed)
    assert len(differences) == 2
    assert all(float(one) < 1e-9 for one in differences)
