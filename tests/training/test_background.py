"""A command in the background outlives its caller's terminal, quietly, and can be followed."""

import os
import sys
from pathlib import Path

import pytest

from captioner.errors import TrainingError
from training.background import run_in_background
from training.run_folder import RunFolder

PRINT = """
import os, sys
print("niceness", os.nice(0), "leads its session", os.getsid(0) == os.getpid())
print("words", *sys.argv[1:])
"""


def test_it_runs_at_the_lowest_priority_and_writes_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", PRINT, "table3", "--background", "--p", "0"]
    process = run_in_background(command, tmp_path / "out", "table3")
    assert process.wait(240) == 0
    said = capsys.readouterr().out
    log = tmp_path / "out" / "table3.log"
    assert f"it writes to {log}" in said
    assert f"kill {process.pid} " in said
    lines = log.read_text().splitlines()
    assert lines[0] == f"niceness {min(19, os.nice(0) + 19)} leads its session True"
    assert lines[1] == "words table3 --p 0"


def test_a_folder_in_use_is_refused_at_once(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "out").locked(),
        pytest.raises(TrainingError, match="another process is training"),
    ):
        run_in_background([sys.executable, "-c", PRINT], tmp_path / "out", "table3")
