"""The loop: what is kept as best, when it ends, what differs between runs, what it refuses."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from captioner.errors import CheckpointError, TrainingError
from training.benchmarks.benchmark import Benchmark
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Batch, Task
from training.run import Outcome, Run
from training.run_folder import RunFolder, read_metrics
from training.work import Figures

CPU = torch.device("cpu")
Copy = Callable[..., int]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curves, which takes longer than all else in these runs."""
    monkeypatch.setattr("training.run.draw_curves", lambda *_, **__: None)


class Scripted(Task):
    """A task whose validations give what the test wants to hear; its loss is the weights' norm."""

    name = "scripted"
    input_size, classes, updates_per_epoch = 1, 2, 2

    def __init__(self, *scores: float, latest_tie_wins: bool = False, worth: str = "high") -> None:
        self._scores = iter(scores)
        self.latest_tie_wins = latest_tie_wins
        self.higher_is_better = worth == "high"
        self.loss_factor = 1.0
        self.p_in_force: list[float] = []

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for _ in range(start, self.updates_per_epoch):
            yield torch.zeros(1), torch.full((1,), epoch)

    def loss(self, model: Any, _batch: Batch, _generator: torch.Generator) -> Tensor:
        assert model.training
        self.p_in_force.append(model.method.lstm.p)
        return sum(weight.square().sum() for weight in model.parameters()) * self.loss_factor

    def validate(self, model: Any) -> Figures:
        assert not model.training
        return {"accuracy": next(self._scores)}


def run_of(task: Task, folder: Path, **options: Any) -> Run:
    config = BenchmarkConfig.from_json({"hidden_size": 3, "epochs": 5, **options})
    folder.mkdir(exist_ok=True)
    return Run.open(Benchmark(task, config, CPU), RunFolder(folder), config, {}, lambda _line: None)


@pytest.mark.parametrize(
    ("scores", "rules", "best"),
    [
        ((1, 3, 2, 3, 1), {}, 2),
        ((1, 3, 2, 3, 1), {"latest_tie_wins": True}, 4),
        ((5, 3, 4, 3, 9), {"worth": "low"}, 2),
        ((0, 0, 0, 0, 0), {}, 1),
    ],
)
def test_the_best_model_is_chosen_as_the_task_says(
    scores: tuple[float, ...], rules: dict[str, Any], best: int, tmp_path: Path
) -> None:
    run = run_of(Scripted(*scores, **rules), tmp_path)
    assert run.train() is Outcome.FINISHED
    assert run.state.best_step == 2 * best
    kept = json.loads((tmp_path / "best" / "model.json").read_text())
    assert kept["epoch"] == best
    assert kept["validation"] == {"accuracy": scores[best - 1]}


def test_two_validations_running_at_the_goal_end_the_run(tmp_path: Path) -> None:
    run = run_of(Scripted(99, 50, 98, 98, 1), tmp_path, stop_at=98.0)
    assert run.train() is Outcome.REACHED
    assert run.state.step == 8


def test_time_ends_the_run_with_a_model_to_test(tmp_path: Path) -> None:
    run = run_of(Scripted(7), tmp_path, minutes=1e-9)
    assert run.train() is Outcome.OUT_OF_TIME
    assert (run.state.step, run.state.best) == (1, {"accuracy": 7})
    assert isinstance(run.work, Benchmark)
    run.work.test(run, Outcome.OUT_OF_TIME, lambda _line: None)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["outcome"], result["epochs"], result["of_epochs"]) == ("out_of_time", 0.5, 5)


def test_annealing_ends_the_detaching_where_it_says(tmp_path: Path) -> None:
    task = Scripted(1, 2, 3, 4, 5)
    run_of(task, tmp_path, p=0.25, anneal_epochs=2).train()
    assert task.p_in_force == [0.25] * 6 + [0.0] * 4


@pytest.mark.parametrize("clip", [0.0, 1.0, 1e-3])
def test_gradients_are_bounded_by_their_common_norm(clip: float, tmp_path: Path) -> None:
    task = Scripted(1)
    task.updates_per_epoch, task.loss_factor = 1, 100.0
    run = run_of(task, tmp_path, clip=clip, epochs=1)
    before = [weight.detach().clone() for weight in run.work.parameters]
    run.train()
    whole = torch.cat([200 * weight.flatten() for weight in before])  # d/dw of 100 w^2
    expected = whole if not clip else whole * clip / whole.norm()
    found = torch.cat([weight.grad.flatten() for weight in run.work.parameters])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_a_loss_that_is_no_number_keeps_the_checkpoints(tmp_path: Path) -> None:
    class Failing(Scripted):
        def validate(self, model: Any) -> Figures:
            self.loss_factor = float("nan")
            return super().validate(model)

    run = run_of(Failing(1, 2), tmp_path, epochs=2)
    with pytest.raises(
        TrainingError, match=r"the loss is nan at update 4; the last good"
    ) as caught:
        run.train()
    assert "lower --lr, or bound the gradients by --clip 1" in str(caught.value)
    assert json.loads((tmp_path / "last" / "run_state.json").read_text())["step"] == 2


def test_runs_that_differ_in_p_begin_alike_and_see_the_same_data(
    copy_here: Copy, tiny_copying: list[str], tmp_path: Path
) -> None:
    # The rate is too small to move a weight: these are the initial ones, and losses of the data.
    words = [*tiny_copying, "--lr", "1e-20", "--epochs", "1"]
    for p in ("0", "0.5"):
        assert copy_here(*words, "--p", p, "--out", f"p{p}") == 0
    for name in ("best", "last"):
        one, two = (
            load_file(tmp_path / f"p{p}" / name / "model.safetensors") for p in ("0", "0.5")
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    losses = [
        [line["loss"] for line in read_metrics(RunFolder(tmp_path / f"p{p}"))] for p in ("0", "0.5")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("p", "seed"), [("0", "1"), ("0.25", "0")])
def test_a_small_copying_task_is_solved(p: str, seed: str, copy_here: Copy, tmp_path: Path) -> None:
    words = ["--delay", "10", "--symbols", "3", "--hidden-size", "64", "--lr", "3e-3"]
    ends = ["--epochs", "24", "--updates", "250", "--stop-at", "99.1", "--threads", "1"]
    words += [*ends, "--batch-size", "50", "--p", p, "--seed", seed, "--device", "cpu"]
    assert copy_here(*words, "--out", "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["validation"]["accuracy"] > 99


def test_transfer_is_asked_once_of_the_same_model(
    copy_here: Copy, tiny_copying: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tests() -> Mapping[str, Any]:
        return json.loads((tmp_path / "run" / "result.json").read_text())["tests"]

    assert copy_here(*tiny_copying, "--out", "run", "--transfer", "8") == 0
    assert tests().keys() == {"delay_8"}
    capsys.readouterr()
    assert copy_here("--resume", "run", "--transfer", "8", "16") == 0
    said = capsys.readouterr().out
    assert tests().keys() == {"delay_8", "delay_16"}
    assert "testing the best model: delay_16" in said
    assert "testing the best model: delay_8" not in said
    lines = read_metrics(RunFolder(tmp_path / "run"))
    asked = [line for line in lines if line["kind"].startswith("delay")]
    assert [(line["kind"], line["accuracy"]) for line in asked] == [
        (name, figures["accuracy"]) for name, figures in tests().items()
    ]


def test_a_checkpoint_of_another_model_is_refused(
    copy_here: Copy, tiny_copying: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_copying, "--epochs", "1", "--updates", "2"]
    assert copy_here(*words, "--out", "small") == 0
    assert copy_here(*words, "--hidden-size", "9", "--out", "larger") == 0
    assert copy_here(*words, "--model", "irnn", "--out", "irnn") == 0
    capsys.readouterr()
    for other, message in (
        ("larger", "the weights in small/last are those of another model"),
        ("irnn", "small/last holds the model irnn for copying, and this run's is lstm for copying"),
    ):
        (tmp_path / "small" / "last").rename(tmp_path / f"kept-{other}")
        (tmp_path / other / "last").rename(tmp_path / "small" / "last")
        assert copy_here("--resume", "small", "--epochs", "2") == 2
        complaint = capsys.readouterr().err
        assert message in complaint
        assert complaint.count("\n") == 1
        (tmp_path / "small" / "last").rename(tmp_path / other / "last")
        (tmp_path / f"kept-{other}").rename(tmp_path / "small" / "last")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run_of(Scripted(1, 2), tmp_path, epochs=2).train()
    path = tmp_path / "last" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated or was altered"):
        run_of(Scripted(), tmp_path, epochs=3)
