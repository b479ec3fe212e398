"""A run that is killed, interrupted or resumed ends exactly where an undisturbed one does."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from captioner.checkpoint import load_checkpoint
from captioner.files import file_hash
from training.run_folder import RunFolder, read_metrics

Start = Callable[..., "subprocess.Popen[str]"]

WEIGHTS = ("encoder.safetensors", "decoder.safetensors")
EXACT = [*("--p", "0.4", "--average-decay", "0.9", "--lr-schedule", "cosine", "--epochs", "3")]
SAVE_OFTEN = ["--save-every", "0"]  # after every step


def finished(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


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


@pytest.mark.parametrize("kind", ["frozen", "joint"])
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(
    kind: str, tiny: list[str], tiny_joint: list[str], start: Start, tmp_path: Path
) -> None:
    words = [*(tiny if kind == "frozen" else tiny_joint), *EXACT]
    if kind == "frozen":
        words.append("--horizontal-flip")
    finished(start(*words, "--out", "undisturbed"))

    killed = tmp_path / "killed"
    process = start(*words, *SAVE_OFTEN, "--out", "killed")
    delays = random.Random(0)
    kills = 0
    wait_for(killed / "config.json", process)
    while process.poll() is None:
        try:
            process.wait(delays.uniform(0.05, 0.8))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        if kills == 3:
            break
        process = start("--resume", "killed", *SAVE_OFTEN)
        wait_for(killed / "last", process)
        started = time.monotonic()
        while process.poll() is None and time.monotonic() - started < 2:
            time.sleep(0.01)
    process.wait()
    finished(start("--resume", "killed"))
    assert kills > 0
    assert end_state(killed) == end_state(tmp_path / "undisturbed")
    assert figures(killed) == figures(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tiny: list[str], start: Start, tmp_path: Path
) -> None:
    process = start(*tiny, "--epochs", "400", "--validate-every", "1000", "--out", "run")
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    while not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        time.sleep(0.01)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "python training/train_coco.py --resume run" in output
    saved = json.loads((tmp_path / "run" / "last" / "standing.json").read_text())
    assert saved["step"] > 0
    load_checkpoint(tmp_path / "run" / "last")
    again = finished(start("--resume", "run/last", "--epochs", "1", "--device", "cpu"))
    assert f"going on after step {saved['step']:,}" in again
