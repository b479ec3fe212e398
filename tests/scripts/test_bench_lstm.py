"""The benchmark of the LSTM on sizes that take no time: what it prints, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# In a process of its own: it forks before anything has run in parallel, which is too late here.
# All in one, since nine tenths of the time are for importing and compiling.
SMALL = """
import sys
folder, scripts = sys.argv[1:]
sys.path.insert(0, scripts)
import bench_lstm as bench
sizes = dict(steps=3, batch=4, inputs=1, hidden=5)
bench.SHAPES.update(mnist=bench.Shape(**sizes, classes=3, at_every_step=False))
bench.GROWTH = {"steps": (2, 4), "batch": (2, 4), "hidden": (2, 4)}
for arguments in (
    "--rounds 0",
    "--backends cpp --shapes mnist",
    "--shapes mnist --backends torch --p 0 0.5 --rounds 2 --slow-rounds 1 --json {}/bench.json",
    "--growth {}/growth.png --backends torch --rounds 1",
):
    print(bench.main(arguments.format(folder).split()), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the script has run with bad options, to compare, and to draw."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-c", SMALL, str(folder), str(ROOT / "scripts")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "out").write_text(done.stdout)
    (folder / "err").write_text(done.stderr)
    return folder


def test_every_contestant_has_its_figures(folder: Path) -> None:
    written = json.loads((folder / "bench.json").read_text())
    printed = (folder / "out").read_text()
    assert set(written["figures"]) == {"mnist", "mnist, with output layer and loss"}
    rows = written["figures"]["mnist"]["contestants"]
    assert list(rows) == [
        *("nn.LSTM as it comes", "nn.LSTM", "nn.LSTM, oneDNN off", "loop, p = 0", "loop, p = 0.5"),
        *("torch, p = 0", "torch, p = 0.5", "matrix products"),
    ]
    for name, row in rows.items():
        assert len(row["seconds"]) == (1 if name == "nn.LSTM as it comes" else 2)
        assert row["min"] <= row["median"]
        assert name in printed
    assert rows["nn.LSTM"]["ratio"] == 1.0
    assert 0.0 <= written["machine"]["load_of_others"]["before"] <= 1.0


def test_growth_is_drawn(folder: Path) -> None:
    assert (folder / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert "hidden     4  torch, p = 0.25" in (folder / "out").read_text()


def test_bad_options_are_one_line_and_status_2(folder: Path) -> None:
    said = (folder / "err").read_text().splitlines()
    assert len(said) == 2
    assert said[0].startswith("bench_lstm.py: --rounds is 0")
    assert "backend is 'cpp'" in said[1]
    assert (folder / "out").read_text().split()[:2] == ["2", "2"]
