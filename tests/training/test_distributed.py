"""Several processes train as one: the same loss curve, one writer, one message, and no lost run.

The processes are forked by the driver with the variables that torchrun sets; one test has torchrun
itself.
"""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.checkpoint import load_checkpoint
from captioner.data.shapes import generate
from tests.training.test_resume import end_state, figures, saved_step
from training.run_folder import RunFolder, read_metrics

ROOT = Path(__file__).resolve().parents[2]


class Together(list[Any]):
    """The processes of one training."""

    def outputs(self) -> str:
        return "".join(one.output for one in self)

    def end(self) -> list[int]:
        return [one.wait() for one in self]

    def finish(self) -> None:
        assert self.end() == [0] * len(self), self.outputs()


Launch = Callable[..., Together]


@pytest.fixture
def launch(start: Any) -> Launch:
    """Start a training in two processes, which log every step."""

    def launch(*words: str, others: Sequence[str] = (), program: str = "train_coco") -> Together:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return Together(
            start(
                *words,
                *(others if rank else ()),
                program=program,
                environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                log_every=1,
            )
            for rank in range(2)
        )

    return launch


@pytest.fixture
def broken_sample(tmp_path: Path) -> Path:
    """40 training pictures, one of which cannot be read."""
    data = generate(tmp_path / "data" / "shapes", seed=0, sizes=(40, 6, 2))
    images = json.loads(data.read_text())["images"]
    broken = [one["filename"] for one in images if one["split"] == "train"][7]
    next(data.parent.rglob(broken)).write_bytes(b"no picture")
    return data


def losses(run: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_metrics(RunFolder(run)) if line["kind"] == "train"]


def test_two_processes_have_the_loss_curve_of_one_and_one_goes_on_where_they_stopped(
    broken_sample: Path, tiny_joint: list[str], start: Any, launch: Launch, tmp_path: Path
) -> None:
    # Of 40 images 13 at a time, the last batch has a single one: the first process has no part.
    words = [
        *(*tiny_joint, "--data", str(broken_sample), "--batch-size", "13", "--epochs", "6"),
        *("--p", "0.4", "--dropout", "0", "--attention-regulariser", "0.5"),
        *("--average-decay", "0.9", "--clip-norm", "1", "--random-crop", "0.7"),
    ]
    alone = start(*words, "--out", "alone", log_every=1)
    together = launch(*words, "--save-every", "0", "--out", "together")
    together[1].wait_until(lambda: saved_step(tmp_path / "together") >= 20)
    together[1].signal(signal.SIGTERM)  # to one of them alone
    assert together.end() == [130, 130], together.outputs()
    stopped = saved_step(tmp_path / "together")
    assert 20 <= stopped < 24
    assert together[0].output.count("all of it saved") == 1
    assert "torchrun --nproc-per-node 2" in together[0].output
    assert together.outputs().count("skipped: ") == 1  # named once, whoever met it
    assert start("--resume", "together", log_every=1).wait() == 0
    assert alone.wait() == 0

    expected = losses(tmp_path / "alone")
    assert len(expected) == 24
    assert losses(tmp_path / "together") == pytest.approx(expected, rel=0, abs=1e-5)
    assert expected[0] != pytest.approx(expected[-1], abs=0.1), "nothing was learned"
    weights = [
        load_checkpoint(tmp_path / run / "last").decoder.state_dict()
        for run in ("alone", "together")
    ]
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() < 1e-3, name


def test_a_run_of_two_is_resumed_bit_for_bit_with_dropout_of_each_process(
    tiny: list[str], launch: Launch, tmp_path: Path
) -> None:
    words = [*tiny, "--p", "0.4", "--average-decay", "0.9", "--batch-size", "7", "--dropout", "0.5"]
    launch(*words, "--out", "undisturbed").finish()
    launch(*words, "--epochs", "1", "--out", "resumed").finish()
    launch("--resume", "resumed", "--epochs", "2").finish()
    assert end_state(tmp_path / "resumed") == end_state(tmp_path / "undisturbed")
    assert figures(tmp_path / "resumed") == figures(tmp_path / "undisturbed")
