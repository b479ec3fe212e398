"""The counts of a run as they are stored, in this version and in earlier ones."""

import torch

from training.run_state import Interval, RunState
from training.work import BatchLoss


def test_the_stored_counts_come_back() -> None:
    state = RunState(step=7, best={"CIDEr": 0.5}, seconds=3.5)
    state.interval.add(BatchLoss(torch.tensor(0.1), 3, 2, {"reward": torch.tensor(2.0)}))
    state.interval.add(BatchLoss(torch.tensor(0.3), 5, 2, {"reward": torch.tensor(1.0)}))
    stored = state.to_json()
    again = RunState.from_json(stored)
    assert again.to_json() == stored
    assert again.interval.means()["reward"] == 11 / 8
    assert (again.interval.steps, again.interval.captions) == (2, 4)


def test_counts_of_earlier_versions_are_understood() -> None:
    captioner = {
        "step": 33,
        "validated_step": 30,
        "stale_validations": 1,
        "best_step": 20,
        "best_scores": {"CIDEr": 0.5},
        "seconds": 9.0,
        "metrics_bytes": 100,
        "interval": {"steps": 3, "loss": 6.0, "tokens": 12, "captions": 4, "seconds": 1.0},
    }
    interval = Interval(steps=3, captions=4, seconds=1.0, weight=12, sums={"loss": 6.0})
    found = RunState.from_json(captioner)
    assert (found.step, found.best, found.stale_validations) == (33, {"CIDEr": 0.5}, 1)
    assert found.interval == interval
    benchmark = {
        "update": 33,
        "validated_update": 30,
        "reached": 1,
        "best_update": 20,
        "best": {"accuracy": 50.0},
        "seconds": 9.0,
        "metrics_bytes": 100,
        "interval_updates": 3,
        "interval_loss": 6.0,
    }
    found = RunState.from_json(benchmark)
    assert (found.step, found.best_step, found.reached_validations) == (33, 20, 1)
    assert found.interval.means() == {"loss": 2.0}
