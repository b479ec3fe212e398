"""A benchmark that is killed, interrupted or resumed ends exactly where an undisturbed one does."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from captioner.files import file_hash
from training.run_folder import RunFolder, read_metrics

EXACT = ["--epochs", "4", "--anneal-epochs", "1", "--p", "0.4", "--transfer", "6"]
SAVE_OFTEN = ["--save-every", "0"]  # after every update


def finished(process: Any) -> None:
    assert process.wait() == 0, process.output


def saved_update(run: Path) -> int:
    """Return the update that `last/` holds, 0 before there is one."""
    path = run / "last" / "run_state.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


def end_state(run: Path) -> dict[str, Any]:
    """Return all that is left of a run and must not depend on its history."""
    names = ("best/model", "last/model", "last/optimiser", "last/generators")
    state: dict[str, Any] = {name: file_hash(run / f"{name}.safetensors") for name in names}
    result = json.loads((run / "result.json").read_text())
    state["result"] = {
        name: result[name] for name in ("outcome", "best_update", "validation", "tests")
    }
    state["log"] = [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_metrics(RunFolder(run))
    ]
    return state


@pytest.mark.parametrize("model", ["lstm", "zoneout"])
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(
    model: str, tiny_copying: list[str], start: Any, tmp_path: Path
) -> None:
    words = [*tiny_copying, *EXACT, "--model", model]
    finished(start(*words, "--out", "undisturbed", program="copying"))

    killed, chance = tmp_path / "killed", random.Random(2)
    process = start(*words, *SAVE_OFTEN, "--out", "killed", program="copying")
    process.wait_until((killed / "config.json").exists)
    updates = []
    for kill in range(4):
        if kill:  # the first one may come before anything is saved
            process.wait_until(lambda: saved_update(killed) >= 9 * len(updates))
        time.sleep(chance.uniform(0.0, 0.05))
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.output
        updates.append(saved_update(killed))
        process = start("--resume", "killed", *SAVE_OFTEN, program="copying")
    finished(process)
    assert updates[-1] < 48, "it was over before the last kill"
    assert end_state(killed) == end_state(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tiny_copying: list[str], start: Any, tmp_path: Path
) -> None:
    words = [*tiny_copying, "--updates", "100000", "--out", "run"]
    process = start(*words, program="copying")
    log = tmp_path / "run" / "metrics.jsonl"
    process.wait_until(lambda: log.exists() and log.stat().st_size > 0)
    process.signal(number)
    assert process.wait() == 130, process.output
    assert "python training/copying.py --resume run" in process.output
    assert saved_update(tmp_path / "run") > 0
