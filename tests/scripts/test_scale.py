"""Documents of scale: what follows from measured figures, and what is said of missing ones."""

import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PAGE = "before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n"
FACTS = {
    "command": "python scripts/x.py",
    "machine": {"model": "A processor", "cores": "2", "commit": "abc"},
    "load_of_others": 0.01,
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    (tmp_path / "scale.md").write_text(PAGE)
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def rates(local: float, decode: float) -> dict[str, object]:
    """Figures of one hundred photographs on two cores."""
    work = {"decode": 100 * decode, "encode": 3.0, "search": 1.0}
    measured = {
        "rates": {"library": 50.0, "local": local},
        "whole": {"library": 40.0, "local": 30.0},
        "seconds_to_first": {"library": 0.5, "local": 1.5},
        "work_seconds": {"local": work},
    }
    return {**FACTS, "found": {"photographs": 100, "bytes_each": 125_000, "2": measured}}


def test_documents_hold_what_was_measured_and_what_follows(results: Path) -> None:
    from scale.report import write_documents

    write_documents(results)
    text = (results / "scale.md").read_text()
    assert text.count("Not measured yet") == 2
    assert text.count("Not checked yet") == 2
    assert (results.parent / "scale.md").read_text() == PAGE

    checks = {"node killed": {"passed": True, "rows": 9}, "driver killed": {"passed": False}}
    found = {
        "rates": rates(local=40.0, decode=0.004),
        "memory": {**FACTS, "found": {"1000": {"most_mib": 100.0, "seconds": 2.0}}},
        "batch": {**FACTS, "found": {"namespaces": True, "checks": checks}},
    }
    (results / "scale.json").write_text(json.dumps(found))
    write_documents(results)
    text = (results / "scale.md").read_text()
    assert "| 2 | local | 1.5 | 40.0 | 80%, **missed** | 30.0 | 75% | 9% | 68% | 23% |" in text
    assert "| node killed | passed | rows 9 |" in text
    assert "| driver killed | **failed** |  |" in text
    assert "| 1,000 | 100 | 2 |" in text
    page = (results.parent / "scale.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("<!-- figures: end -->\nafter\n")
    assert "old" not in page
    # 20 a second and core, 8 cores: 160 a second; $0.34 an hour.
    assert "| c5.2xlarge | 8 | 160 | $0.59 | 1 | 73 | 1,736 | 6% |" in page
    # 4 cores that decode in 4 ms each: 1,000 a second, fewer than the encoder would take.
    assert "| g5.xlarge, held up by decoding | 4 | 1,000 | $0.28 |" in page
    assert (results / "scale.png").stat().st_size > 1000


@pytest.mark.usefixtures("results")
def test_a_machine_is_as_quick_as_its_slowest_part() -> None:
    from scale.arithmetic import GPU, GPU_ENCODER, Estimate, gpu_rate

    assert gpu_rate(0.01) == (GPU.vcpus / 0.01, "decoding")
    assert gpu_rate(1e-6) == (GPU_ENCODER, "the encoder")
    one = Estimate(GPU, rate=1000.0, bytes_each=1e6)
    assert one.machines(86_400_000) == 1
    assert one.machines(86_400_001) == 2
    assert one.gigabits(86_400_001) == pytest.approx(16.0)
