"""Runs side by side: what is complete is skipped, what was stopped goes on, the time is shared.

A stand-in for the scripts trains nothing: it counts updates into the files of a run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training import schedule
from training.benchmarks import schedule as benchmark_schedule
from training.benchmarks.reproductions import Row, Run, Setting
from training.benchmarks.run_results import RunResult
from training.benchmarks.schedule import BenchmarkPlan
from training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[2]
SETTING = Setting("stand-in", "stand_in", (), 4, "stand_in")

STAND_IN = """
import argparse, json, os, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("out", "resume", "model", "seed", "speed", "lr"):
    parser.add_argument("--" + name)
parser.add_argument("--epochs", type=int)
parser.add_argument("--minutes", type=float)
parser.add_argument("--transfer", nargs="+", type=int, default=[])
given = parser.parse_args()
folder = Path(given.out or given.resume)
if given.resume:
    standing = json.loads((folder / "last" / "standing").read_text())
else:
    folder.mkdir(parents=True)
    standing = {"epoch": 0, "seconds": 0.0, "speed": float(given.speed), "processes": 0}
standing["processes"] += 1
if given.model == "broken":
    print("stand_in.py: the loss is nan; lower --lr")
    sys.exit(2)

def stop(*_):
    save()
    sys.exit(130)

def save():
    (folder / "last").mkdir(exist_ok=True)
    (folder / "last" / "standing").write_text(json.dumps(standing))

signal.signal(signal.SIGTERM, stop)
save()
log = open(folder / "metrics.jsonl", "a")
while standing["epoch"] < given.epochs and standing["seconds"] < 60 * given.minutes:
    time.sleep(0.005)
    standing["seconds"] += standing["speed"]
    standing["epoch"] += 1
    line = {"kind": "validation", "step": 0, "epoch": standing["epoch"], "accuracy": 50.0,
            "seconds": standing["seconds"]}
    print(json.dumps(line), file=log, flush=True)
    save()
result = {"epochs": standing["epoch"], "seconds": standing["seconds"],
          "tests": {f"delay_{delay}": {"accuracy": 1.0} for delay in given.transfer}}
(folder / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(benchmark_schedule, "_TRAINING", scripts)
    monkeypatch.setattr(schedule, "_POLL_SECONDS", 0.02)
    return scripts


def make(seed: int, speed: float = 1.0, model: str = "counter") -> Run:
    return Run(SETTING, Row("stand-in", model, (("speed", speed),)), 1e-3, seed)


def standing(plan: BenchmarkPlan, run: Run) -> dict[str, float]:
    return json.loads((plan.folder(run) / "last" / "standing").read_text())


@pytest.mark.usefixtures("stand_in")
def test_all_runs_come_to_their_end_and_are_then_left_alone(tmp_path: Path) -> None:
    plan = BenchmarkPlan(out=tmp_path / "out", jobs=2)
    runs = [make(seed) for seed in range(3)]
    assert Schedule(plan).carry_out(runs)
    assert [plan.result(run).epochs for run in runs] == [4, 4, 4]
    assert Schedule(plan).carry_out(runs)
    assert [standing(plan, run)["processes"] for run in runs] == [1, 1, 1]


@pytest.mark.usefixtures("stand_in")
def test_more_epochs_and_a_new_test_make_a_run_go_on(tmp_path: Path) -> None:
    run = make(0)
    Schedule(BenchmarkPlan(out=tmp_path, jobs=1)).carry_out([run])
    longer = BenchmarkPlan(out=tmp_path, jobs=1, epochs_of_all=6)
    Schedule(longer).carry_out([run])
    assert standing(longer, run)["epoch"] == 6
    tested = BenchmarkPlan(out=tmp_path, jobs=1, epochs_of_all=6, delays=(200, 400))
    Schedule(tested).carry_out([run])
    assert standing(tested, run) == {"epoch": 6, "seconds": 6.0, "speed": 1.0, "processes": 3}
    assert tested.result(run).transfer == {200: 1.0, 400: 1.0}


@pytest.mark.usefixtures("stand_in")
def test_a_budget_is_shared_and_what_one_leaves_over_goes_to_the_others(tmp_path: Path) -> None:
    quick, slow, slower = make(0, speed=1.0), make(1, speed=7.0), make(2, speed=7.0)
    plan = BenchmarkPlan(out=tmp_path, jobs=1, epochs_of_all=100, budget_seconds=300.0)
    Schedule(plan).carry_out([quick, slow, slower])
    assert [plan.result(run).epochs for run in (quick, slow, slower)] == [100, 15, 15]
    brief = BenchmarkPlan(out=tmp_path / "brief", jobs=1, epochs_of_all=10, budget_seconds=90.0)
    Schedule(brief).carry_out([quick, slow, slower])  # the first needs 10 of its 30
    assert [brief.result(run).epochs for run in (quick, slow, slower)] == [10, 6, 6]
    unlimited = BenchmarkPlan(out=tmp_path / "brief", jobs=1, epochs_of_all=10)
    Schedule(unlimited).carry_out([slow])
    assert brief.result(slow).epochs == 10


@pytest.mark.usefixtures("stand_in")
def test_what_another_machine_trained_counts_until_it_is_passed_and_takes_no_budget(
    tmp_path: Path,
) -> None:
    run, other = make(0), make(1)
    there = RunResult(epochs=3.0, seconds=20_000.0, curve=((3.0, 50.0),))
    plan = BenchmarkPlan(
        out=tmp_path,
        jobs=1,
        epochs_of_all=100,
        budget_seconds=4.0,
        made_elsewhere={run.name: there},
    )
    assert (plan.epochs(run), plan.seconds(run)) == (3.0, 0.0)
    Schedule(plan).carry_out([run, other])
    assert standing(plan, run)["epoch"] == standing(plan, other)["epoch"] == 2
    assert plan.result(run) == there
    Schedule(plan).carry_out([run, other])
    assert plan.result(run).epochs == standing(plan, run)["epoch"] > 3


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_breaks_off_says_why_and_does_not_stop_the_others(tmp_path: Path) -> None:
    broken, good = make(0, model="broken"), make(1)
    plan = BenchmarkPlan(out=tmp_path, jobs=1)
    assert Schedule(plan).carry_out([broken, good])
    assert plan.failure(broken) == "the loss is nan; lower --lr"
    assert plan.failure(good) == ""
    assert plan.is_complete(good)
    Schedule(plan).carry_out([broken])  # it left nothing to go on with, so it begins anew


DRIVER = """
import sys
from pathlib import Path
from training.benchmarks import schedule
from training.benchmarks.reproductions import Row, Run, Setting
from training.schedule import Schedule
schedule._TRAINING = Path(sys.argv[1])
setting = Setting("", "stand_in", (), 4, "stand_in")
run = Run(setting, Row("", "counter", (("speed", 1.0),)), 1e-3, 0)
plan = schedule.BenchmarkPlan(out=Path(sys.argv[2]), jobs=1, epochs_of_all=100_000)
sys.exit(0 if Schedule(plan).carry_out([run]) else 130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_it_is_stopped_its_runs_save_and_the_next_call_goes_on(
    tmp_path: Path, stand_in: Path, number: signal.Signals
) -> None:
    if number == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process that its parent died")
    run, plan = make(0), BenchmarkPlan(out=tmp_path / "out", jobs=1, epochs_of_all=100_000)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(stand_in), str(plan.out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_until(lambda: plan.result(run).epochs > 3)
    process.send_signal(number)
    assert process.wait(30) == (130 if number == signal.SIGTERM else -number)
    time.sleep(0.3)
    stopped_at = plan.result(run).epochs
    time.sleep(0.3)
    assert plan.result(run).epochs == stopped_at  # nobody is left behind
    longer = BenchmarkPlan(out=plan.out, jobs=1, epochs_of_all=int(stopped_at) + 2)
    assert Schedule(longer).carry_out([run])
    assert standing(longer, run)["processes"] == 2
    assert standing(longer, run)["epoch"] == stopped_at + 2


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_another_process_still_writes_is_waited_for(tmp_path: Path) -> None:
    run, plan = make(0), BenchmarkPlan(out=tmp_path, jobs=1)
    plan.folder(run).mkdir(parents=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\n"
            "file = open(sys.argv[1], 'a')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\n"
            "time.sleep(0.5)\n",
            str(plan.folder(run) / ".lock"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    with holder.stdout:
        holder.stdout.readline()
        assert Schedule(plan).carry_out([run])
    assert holder.wait() == 0
    assert plan.is_complete(run)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
