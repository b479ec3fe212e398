"""Several processes train as one: the same loss curve, one writer, one message, and no lost run.

The processes are forked by the driver with the variables that torchrun sets; one test has torchrun
itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import training.meeting
from captioner.checkpoint import load_checkpoint
from captioner.data.shapes import generate
from captioner.encoder.config import EncoderConfig
from captioner.encoder.timm_encoder import TimmEncoder
from tests.training.test_resume import end_state, saved_step
from training.meeting import Meeting, ProcessLostError
from training.run_folder import RunFolder, read_metrics

ROOT = Path(__file__).resolve().parents[2]


class Together(list[Any]):
    """The processes of one training, and the store by which they meet, as torchrun has one."""

    def __init__(self, start: Callable[[int, dict[str, str]], Any], size: int) -> None:
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
        shared = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
        super().__init__(start(rank, shared | own) for rank, own in enumerate(ranks))

    def outputs(self) -> str:
        return "".join(one.output for one in self)

    def end(self) -> list[int]:
        return [one.wait() for one in self]

    def finish(self) -> None:
        assert self.end() == [0] * len(self), self.outputs()


Launch = Callable[..., Together]


@pytest.fixture
def launch(start: Any) -> Launch:
    """Start a training in two processes, or more, which log every step."""

    def launch(
        *words: str, others: Sequence[str] = (), program: str = "train_coco", size: int = 2
    ) -> Together:
        def start_one(rank: int, environment: dict[str, str]) -> Any:
            given = [*words, *(others if rank else ())]
            return start(*given, program=program, environment=environment, log_every=1)

        return Together(start_one, size)

    return launch


@pytest.fixture
def broken_sample(tmp_path: Path) -> Path:
    """40 training pictures, one of which cannot be read."""
    data = generate(tmp_path / "data" / "shapes", seed=0, sizes=(40, 6, 2))
    images = json.loads(data.read_text())["images"]
    broken = [one["filename"] for one in images if one["split"] == "train"][7]
    next(data.parent.rglob(broken)).write_bytes(b"no picture")
    return data


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the tiny encoder: where they are loaded, no statistics of a batch are used."""
    config = EncoderConfig(name="test_resnet", weights="none", image_size=32, stage=3, grid=2)
    made = TimmEncoder.create(config, torch.Generator().manual_seed(0))
    torch.save(made.network.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def figure(run: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_metrics(RunFolder(run)) if line["kind"] == "train"]


def test_two_processes_have_the_loss_curve_of_one_and_one_goes_on_where_they_stopped(
    broken_sample: Path,
    weights: Path,
    tiny_joint: list[str],
    start: Any,
    launch: Launch,
    tmp_path: Path,
) -> None:
    # Of 40 images 13 at a time, the last batch has a single one: the first process has no part.
    words = [
        *(*tiny_joint, "--encoder-weights", str(weights), "--data", str(broken_sample)),
        *("--batch-size", "13", "--epochs", "5", "--validate-every", "10", "--clip-norm", "1"),
        *("--p", "0.4", "--dropout", "0", "--attention-regulariser", "0.02"),
        *("--average-decay", "0.9", "--random-crop", "0.7", "--lr", "1e-4"),
    ]
    alone = start(*words, "--out", "alone", log_every=1)
    together = launch(*words, "--save-every", "0", "--out", "together")
    together[1].wait_until(lambda: saved_step(tmp_path / "together") >= 14)
    together[1].signal(signal.SIGTERM)  # to one of them alone
    assert together.end() == [130, 130], together.outputs()
    stopped = saved_step(tmp_path / "together")
    assert 14 <= stopped < 20
    assert together[0].output.count("all of it saved") == 1
    assert "torchrun --nproc-per-node 2" in together[0].output
    assert together.outputs().count("skipped: ") == 1  # named once, whoever met it
    assert start("--resume", "together", log_every=1).wait() == 0
    assert alone.wait() == 0, alone.output

    expected = figure(tmp_path / "alone")
    assert len(expected) == 20
    assert figure(tmp_path / "together") == pytest.approx(expected, rel=0, abs=1e-5)
    assert sum(expected[:4]) > sum(expected[-4:]), "nothing was learned"
    one, two = (
        load_checkpoint(tmp_path / run / "last").decoder.state_dict()
        for run in ("alone", "together")
    )
    assert all((value - two[name]).abs().max() < 1e-3 for name, value in one.items())


def test_drawn_captions_and_their_rewards_are_those_of_one_process(
    trained: Path, sample: Path, start: Any, launch: Launch, tmp_path: Path
) -> None:
    words = [
        *("--objective", "self_critical", "--start-from", str(trained), "--data", str(sample)),
        *("--p", "0.4", "--samples", "3", "--batch-size", "13", "--epochs", "1", "--threads", "1"),
        *("--device", "cpu", "--workers", "1", "--fine-tune-encoder", "none", "--lr", "1e-3"),
        *("--feature-store", str(tmp_path / "features"), "--bleu-weight", "1"),
    ]
    alone = start(*words, "--out", "alone", log_every=1)
    assert alone.wait() == 0, alone.output
    launch(*words, "--out", "together").finish()
    for name in ("loss", "reward", "sample_length", "samples_ended"):
        expected = figure(tmp_path / "alone", name)
        assert figure(tmp_path / "together", name) == pytest.approx(expected, rel=0, abs=1e-5)
    assert len(set(expected)) > 1, "the same captions at each step"


def test_a_run_of_two_is_resumed_bit_for_bit_with_what_each_process_draws(
    tiny_joint: list[str], launch: Launch, tmp_path: Path
) -> None:
    # Dropout, drawn positions, their baseline and the statistics of batch norm are each one's own.
    words = [
        *(*tiny_joint, "--decoder", "hard_attention", "--dropout", "0.5", "--p", "0.4"),
        *("--batch-size", "7", "--lr-schedule", "constant", "--average-decay", "0.9"),
    ]
    launch(*words, "--out", "undisturbed").finish()
    launch(*words, "--epochs", "1", "--out", "resumed").finish()
    launch("--resume", "resumed", "--epochs", "2").finish()
    assert end_state(tmp_path / "resumed") == end_state(tmp_path / "undisturbed")


def test_the_error_of_one_process_is_told_once(
    tiny: list[str], broken_sample: Path, launch: Launch, tmp_path: Path
) -> None:
    together = launch(*tiny, "--out", "run", others=("--data", str(broken_sample)))
    assert together.end() == [2, 2], together.outputs()
    told = [line for line in together.outputs().splitlines() if "train_coco.py: " in line]
    assert len(told) == 1
    assert "process 1 reads" in told[0]
    assert "Traceback" not in together.outputs()
    assert not (tmp_path / "run").exists()

    together = launch(*tiny, "--epochs", "99", "--save-every", "0", "--out", "killed")
    together[0].wait_until(lambda: saved_step(tmp_path / "killed") >= 2)
    together[1].signal(signal.SIGKILL)
    assert together.end() == [2, -signal.SIGKILL]
    assert together[0].output.count("train_coco.py: another process of this training is gone") == 1
    assert "Traceback" not in together[0].output

    together = launch(program="copying")
    assert together.end() == [2, 2]
    assert together.outputs().count("copying.py trains in one process") == 1


def test_three_processes_learn_from_captions_without_photographs_as_one_does(
    tiny: list[str], start: Any, launch: Launch, tmp_path: Path
) -> None:
    # The last batch of photographs has one for three processes, the last one of captions none for
    # one of them. The detector of attributes is learned before.
    captions = tmp_path / "captions.tsv"
    rows = [f"{number}\ta red circle above a black star" for number in range(33)]
    captions.write_text("\n".join(["cocoid\tcaption", *rows]))
    words = [
        *(*tiny, "--batch-size", "13", "--captions-per-image", "1", "--dropout", "0", "--p", "0.4"),
        *("--attributes", "3", "--attribute-detector", "mil", "--epochs", "1"),
        *("--captions-without-photographs", str(captions), "--alone-weight", "0.8"),
    ]
    alone = start(*words, "--out", "alone", log_every=1)
    launch(*words, "--out", "together", size=3).finish()
    assert alone.wait() == 0, alone.output
    expected = figure(tmp_path / "alone")
    assert len(expected) == 4 + 2
    assert figure(tmp_path / "together") == pytest.approx(expected, rel=0, abs=2e-5)


def test_a_process_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.meeting, "_PATIENCE", timedelta(seconds=0.3))
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    meeting = Meeting(store, store, "name")
    store.set(f"{training.meeting._HERE}2", "")
    with pytest.raises(ProcessLostError, match=r"of 4 processes, number 1, 3 did not come"):
        meeting.wait_for_all(0, 4)


_SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
import driver, training.validation
training.validation.Scorer = driver.WordScorer
from training.train_coco import main
sys.exit(main())
"""


def test_torchrun_goes_on_from_last_when_a_process_was_killed(
    tiny: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT.format(root=str(ROOT), here=str(Path(__file__).parent)))
    words = [*tiny, "--p", "0.4", "--epochs", "12", "--validate-every", "60", "--save-every", "0"]
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [
        *(*torchrun, "--nproc-per-node", "2", "--max-restarts", "1", "--", str(script)),
        *(*words, "--out", str(run)),
    ]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        agent = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file)
    try:
        while saved_step(run) < 10:
            assert agent.poll() is None, log.read_text()
            time.sleep(0.05)
        os.kill(_worker(agent.pid, rank=1), signal.SIGKILL)
        assert agent.wait() == 0, log.read_text()
    finally:
        agent.terminate()
        agent.wait()
    assert log.read_text().count("going on after step") == 1
    lines = [line for line in read_metrics(RunFolder(run)) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(5, 61, 5))


def _worker(agent: int, rank: int) -> int:
    """Return the process of this rank among the children of torchrun."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
        except (OSError, ProcessLookupError):
            continue
        if parent == agent and b"RANK=%d" % rank in environment:
            return int(path.name)
    raise AssertionError("torchrun has no such process")
