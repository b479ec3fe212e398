"""Runs of Table 3 are trained, scored, resumed, left alone, and not begun where time is short.

Stand-ins for both scripts train nothing: they write what the real ones leave.
"""

import json
import signal
from pathlib import Path

import pytest

from tests.training.captioners.hand_made import write_run
from training import schedule
from training.captioners import plan as captioner_plan
from training.captioners.plan import CaptionerPlan
from training.captioners.runs import CaptionerRun, options_for, runs_of
from training.schedule import Schedule

TRAIN = """
import argparse, json, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("out", "resume", "decoder", "p", "seed", "clip-norm", "clip-value"):
    parser.add_argument("--" + name)
parser.add_argument("--epochs", type=int)
parser.add_argument("--pace", type=float, default=0.0)
given = parser.parse_args()
folder = Path(given.out or given.resume)
if given.seed == "7":
    print("train_coco.py: the loss is nan; lower --lr")
    sys.exit(2)
folder.mkdir(parents=True, exist_ok=True)
lines = folder / "metrics.jsonl"
done = len(lines.read_text().splitlines()) if lines.exists() else 0
with open(folder / "processes", "a") as file:
    file.write("x")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
(folder / "last").mkdir(exist_ok=True)  # from here on it can be resumed
with open(lines, "a") as log:
    for epoch in range(done + 1, given.epochs + 1):
        time.sleep(given.pace)
        line = {"kind": "validation", "epoch": epoch, "CIDEr": 0.1, "seconds": 60.0 * epoch}
        print(json.dumps(line), file=log, flush=True)
"""
EVALUATE = """
import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("checkpoint", "split", "beam-size", "captions-out", "out", "feature-store"):
    parser.add_argument("--" + name)
given = parser.parse_args()
Path(given.captions_out).write_text("[]")
Path(given.out).write_text('{"CIDEr": 0.1}')
"""


@pytest.fixture(autouse=True)
def _stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_stand_ins(tmp_path, monkeypatch)


def _use_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir(exist_ok=True)
    (scripts / "train_coco.py").write_text(TRAIN)
    (scripts / "evaluate_coco.py").write_text(EVALUATE)
    monkeypatch.setattr(captioner_plan, "_TRAINING", scripts)
    monkeypatch.setattr(schedule, "_POLL_SECONDS", 0.02)


def a_plan(folder: Path, *training: str, **more: float) -> CaptionerPlan:
    runs = list(runs_of({"show_tell": [0.0, 0.4], "neuraltalk": [0.0, 0.4]}, 1, ["on"]))
    return CaptionerPlan(
        out=folder,
        jobs=2,
        epochs_of_all=4,
        split="test",
        beam_size=3,
        training=training,
        runs=runs,
        **more,
    )


def processes(plan: CaptionerPlan) -> list[int]:
    return [len((plan.folder(run) / "processes").read_text()) for run in plan.runs]


def test_runs_are_trained_and_scored_once(tmp_path: Path) -> None:
    plan = a_plan(tmp_path / "out")
    assert [plan.stage(run) for run in plan.runs] == ["train"] * 4
    assert Schedule(plan).carry_out(plan.runs)
    assert all(map(plan.is_complete, plan.runs))
    assert all(plan.scores(run).exists() and plan.captions(run).exists() for run in plan.runs)
    assert Schedule(plan).carry_out(plan.runs)
    assert processes(plan) == [1, 1, 1, 1]


def test_another_beam_is_scored_without_training_again(tmp_path: Path) -> None:
    plan = a_plan(tmp_path / "out")
    Schedule(plan).carry_out(plan.runs)
    (other := plan.scores(plan.runs[1])).unlink()
    assert plan.stage(plan.runs[1]) == "score"
    Schedule(plan).carry_out(plan.runs)
    assert other.exists()
    assert processes(plan) == [1, 1, 1, 1]


def test_a_run_that_breaks_off_says_why_and_is_not_scored(tmp_path: Path) -> None:
    plan, broken = a_plan(tmp_path / "out"), CaptionerRun("show_tell", 0.0, 7)
    assert Schedule(plan).carry_out([broken, plan.runs[0]])
    assert plan.failure(broken) == "the loss is nan; lower --lr"
    assert not plan.captions(broken).exists()
    assert plan.is_complete(plan.runs[0])


def test_what_would_not_end_in_time_is_not_begun(tmp_path: Path) -> None:
    plan = a_plan(tmp_path / "out", deadline_seconds=150.0)
    first, second, third, fourth = plan.runs
    write_run(plan, first, [0.1, 0.2, 0.3])  # a minute an epoch
    (plan.folder(first) / "last").mkdir()
    assert plan.expected_seconds(first) == 60.0
    assert plan.expected_seconds(second) == 240.0
    assert plan.expected_seconds(third) is None
    assert Schedule(plan).carry_out(plan.runs)
    assert plan.is_complete(first)
    assert not plan.folder(second).exists()
    assert plan.is_complete(third)
    assert not plan.folder(fourth).exists()  # by then the third has shown how long it takes


def test_what_still_trains_at_the_end_of_the_time_is_stopped_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = a_plan(tmp_path / "out", "--pace", "60", deadline_seconds=90.0)
    first, second = slow.runs[:2]
    places = [slow.folder(run) / "last" for run in (first, second)]
    monkeypatch.setattr(
        Schedule,
        "_seconds_left",
        lambda _: 0.0 if all(place.exists() for place in places) else 90.0,
    )
    assert Schedule(slow).carry_out([first, second])  # not interrupted by anyone
    assert [slow.stage(run) for run in (first, second)] == ["train", "train"]
    monkeypatch.undo()
    _use_stand_ins(tmp_path, monkeypatch)
    plan = a_plan(tmp_path / "out")
    assert Schedule(plan).carry_out([first, second])
    for run in (first, second):
        lines = (plan.folder(run) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
        assert (plan.folder(run) / "processes").read_text() == "xx"


def test_a_signal_stops_all_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = a_plan(tmp_path / "out", "--pace", "60")
    fill = Schedule._fill
    sent: list[int] = []  # a second call would end this process

    def filled_and_interrupted(self: Schedule[CaptionerRun]) -> None:
        fill(self)
        if not sent and (plan.folder(plan.runs[0]) / "processes").exists():
            sent.append(signal.SIGTERM)
            # Called, not raised: other libraries of this process have handlers of their own.
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            handler(signal.SIGTERM, None)

    monkeypatch.setattr(Schedule, "_fill", filled_and_interrupted)
    assert not Schedule(plan).carry_out(plan.runs)
    assert not plan.result(plan.runs[0]).epochs


def test_a_run_gets_the_options_that_its_decoder_has() -> None:
    words = ["--lr", "0.1", "--cell", "lstm", "--attention-size", "8", "--no-detach-attention"]
    assert options_for("neuraltalk", words) == ["--lr", "0.1", "--cell", "lstm"]
    assert options_for("soft_attention", words) == [*words[:2], *words[4:]]
    assert options_for("show_tell", ["--cell=rnn", "--lr=-1"]) == ["--lr=-1"]


def test_what_differs_has_a_name_of_its_own_and_comes_in_order() -> None:
    runs = list(runs_of({"one": [0.0, 0.25], "other": [0.0, 0.25]}, 2, ["off", "on"]))
    assert len({run.name for run in runs}) == len(runs) == 16
    assert [run.name for run in runs[:3]] == ["one-p0-seed0", "one-p0.25-seed0", "other-p0-seed0"]
    assert runs[4].name == "one-p0-unclipped-seed0"
    assert runs[4].arguments[-4:] == ["--clip-norm", "0", "--clip-value", "0"]
