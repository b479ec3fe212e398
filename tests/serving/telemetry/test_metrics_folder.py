"""Folders of metrics: those of killed supervisors go, those in use stay."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving.telemetry.metrics_folder import MetricsFolder

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from serving.telemetry.metrics_folder import MetricsFolder
folder = MetricsFolder.make() if sys.argv[1] == "make" else MetricsFolder(Path(sys.argv[2]))
print(folder.path, flush=True)
time.sleep(600)
"""


def holder(*words: str) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_what_a_killed_supervisor_left_goes_when_its_workers_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "captioner-metrics-being-made").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "in-use").touch()
    os.symlink(elsewhere, tmp_path / "captioner-metrics-link")
    supervisor, folder = holder("make")
    assert folder.parent == tmp_path
    worker, _ = holder("join", str(folder))
    end(supervisor)
    (folder / "counter_1.db").write_bytes(b"x")
    MetricsFolder.make().drop()
    assert folder.is_dir(), "a worker still writes there"
    end(worker)
    MetricsFolder.make().drop()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"captioner-metrics-being-made", "captioner-metrics-link", "elsewhere"}
    assert (elsewhere / "in-use").exists()
