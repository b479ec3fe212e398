"""A run that is killed, interrupted or resumed ends exactly where an undisturbed one does."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from captioner.checkpoint import load_checkpoint
from captioner.files import file_hash
from training.run_folder import RunFolder, read_metrics

WEIGHTS = ("encoder.safetensors", "decoder.safetensors")
EXACT = [*("--p", "0.4", "--average-decay", "0.9", "--lr-schedule", "cosine", "--epochs", "3")]
SAVE_OFTEN = ["--save-every", "0"]  # after every step


def finished(process: Any) -> str:
    assert process.wait() == 0, process.output
    return str(process.output)


def saved_step(run: Path) -> int:
    """Return the step that `last/` holds, 0 before there is one."""
    path = run / "last" / "run_state.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


def end_state(run: Path) -> dict[str, str]:
    """Return the hashes of all that is left of a run and must not depend on its history."""
    state = {
        f"{folder}/{name}": file_hash(run / folder / name)
        for folder in ("best", "last")
        for name in WEIGHTS
    }
    for name in ("optimiser", "generators", "average"):
        state[name] = file_hash(run / "last" / f"{name}.safetensors")
    state["captions"] = file_hash(run / "captions_val.json")
    return state


def figures(run: Path) -> list[tuple[object, ...]]:
    """Return the lines of the log without what the clock decides."""
    return [
        tuple((key, line[key]) for key in line if "second" not in key)
        for line in read_metrics(RunFolder(run))
    ]


@pytest.mark.parametrize("kind", ["frozen", "thawed", "joint"])
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(
    kind: str, tiny: list[str], tiny_joint: list[str], start: Any, tmp_path: Path
) -> None:
    words = [*(tiny_joint if kind == "joint" else tiny), *EXACT]
    if kind != "joint":
        words.append("--horizontal-flip")
    if kind == "thawed":
        words += ["--fine-tune-encoder", "1", "--frozen-epochs", "1", "--random-crop", "0.7"]
    finished(start(*words, "--out", "undisturbed"))

    killed, chance = tmp_path / "killed", random.Random(1)
    process = start(*words, *SAVE_OFTEN, "--out", "killed")
    process.wait_until((killed / "config.json").exists)
    steps = []
    for kill in range(5):
        if kill:  # the first one may come before anything is saved
            process.wait_until(lambda: saved_step(killed) >= 3 * len(steps))
        time.sleep(chance.uniform(0.0, 0.1))
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.output
        steps.append(saved_step(killed))
        process = start("--resume", "killed", *SAVE_OFTEN)
    finished(process)
    assert steps[-1] < 15, "it was over before the last kill"
    assert end_state(killed) == end_state(tmp_path / "undisturbed")
    assert figures(killed) == figures(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tiny: list[str], start: Any, tmp_path: Path
) -> None:
    process = start(*tiny, "--epochs", "400", "--validate-every", "10000", "--out", "run")
    log = tmp_path / "run" / "metrics.jsonl"
    process.wait_until(lambda: log.exists() and log.stat().st_size > 0)
    process.signal(number)
    assert process.wait() == 130, process.output
    assert "python training/train_coco.py --resume run" in process.output
    saved = json.loads((tmp_path / "run" / "last" / "run_state.json").read_text())
    assert saved["step"] > 0
    load_checkpoint(tmp_path / "run" / "last")
    again = finished(start("--resume", "run/last", "--epochs", "1", "--device", "cpu"))
    assert f"going on after step {saved['step']:,}" in again
