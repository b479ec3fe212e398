"""Counts of a run, and everything that `last/` keeps so that the run can be resumed exactly.

`last/` is an ordinary checkpoint of the current weights. Beside them it has what only training
needs: the optimiser's moments, the generators, state of the work, and the counts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from captioner.errors import TrainingError
from captioner.files import read_json
from captioner.hashed_folder import read_hashes
from captioner.tensor_files import read_extra
from training.distributed import ALONE, Ranks
from training.optimisation import optimiser_tensors, restore_optimiser

if TYPE_CHECKING:
    from training.work import BatchLoss, Work

_STATE, _EARLIER_STATE = "run_state", "standing"
_EARLIER_NAMES = {
    "update": "step",
    "validated_update": "validated_step",
    "best_update": "best_step",
    "best_scores": "best",
}


class Extras(NamedTuple):
    """What a checkpoint holds beside the weights, each by the name of its file."""

    json_values: Mapping[str, Any] = MappingProxyType({})
    tensors: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})


@dataclass
class Pace:
    """What some steps came to in how long."""

    steps: int = 0  # that moved the weights
    captions: int = 0
    seconds: float = 0.0

    def add(self, batch: "BatchLoss") -> None:
        self.steps += 1
        self.captions += batch.captions


@dataclass
class Interval(Pace):
    """The steps since the last line of the log."""

    weight: int = 0
    sums: dict[str, float | Tensor] = field(default_factory=dict)  # of weighted figures by name

    def add(self, batch: "BatchLoss") -> None:
        """Add a batch up, in double precision and without waiting for the device."""
        super().add(batch)
        self.weight += batch.weight
        for name, value in {"loss": batch.loss, **batch.figures}.items():
            weighted = value.detach().double() * batch.weight
            self.sums[name] = self.sums.get(name, 0.0) + weighted

    def sum(self, name: str) -> float:
        return float(self.sums.get(name, 0.0))

    def together(self, ranks: Ranks) -> "Interval":
        """Return the interval with the sums of all processes added up."""
        sums: dict[str, float | Tensor] = {}
        for of_rank in ranks.gather({name: self.sum(name) for name in self.sums}):
            for name, value in of_rank.items():
                sums[name] = sums.get(name, 0.0) + value
        return replace(self, sums=sums)

    def means(self) -> dict[str, float]:
        return {name: self.sum(name) / self.weight for name in self.sums}


@dataclass
class RunState:
    """The counts of a run."""

    step: int = 0  # steps done
    validated_step: int = 0  # when the last validation was
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)  # empty before the first validation
    stale_validations: int = 0  # validations since the best one
    reached_validations: int = 0  # validations running that reached the goal
    seconds: float = 0.0  # of training and validation, over all processes
    metrics_bytes: int = 0  # length of the log
    interval: Interval = field(default_factory=Interval)

    def note_validation(
        self, figures: dict[str, float], *, is_best: bool, is_at_goal: bool
    ) -> None:
        """Count a validation at this step."""
        self.validated_step = self.step
        self.reached_validations = self.reached_validations + 1 if is_at_goal else 0
        self.stale_validations = 0 if is_best else self.stale_validations + 1
        if is_best:
            self.best_step, self.best = self.step, dict(figures)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["interval"]["sums"] = {name: self.interval.sum(name) for name in self.interval.sums}
        return values

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "RunState":
        """Return what `to_json` wrote, in this version or an earlier one."""
        values = {_EARLIER_NAMES.get(name, name): value for name, value in stored.items()}
        interval = dict(values.pop("interval", {}))
        if "interval_updates" in values:  # an earlier benchmark
            steps = values.pop("interval_updates")
            interval = {"steps": steps, "weight": steps, "loss": values.pop("interval_loss")}
            values["reached_validations"] = values.pop("reached")
        if "tokens" in interval:  # an earlier captioner
            interval["weight"] = interval.pop("tokens")
        if "loss" in interval:
            interval["sums"] = {"loss": interval.pop("loss")}
        return cls(**values, interval=Interval(**interval))


def save_last(folder: Path, work: "Work", state: RunState, ranks: Ranks = ALONE) -> None:
    """Write `last/`; of several processes the first one does, with what the others carry.

    Raises:
        StorageError: the disk is full; the previous `last/` is untouched.
    """
    generators: dict[str, Tensor] = {}
    for of_rank in ranks.gather({name: one.get_state() for name, one in work.generators.items()}):
        generators |= of_rank
    state = replace(state, interval=state.interval.together(ranks))
    if not ranks.is_first:
        return
    tensors = {
        "optimiser": optimiser_tensors(work.optimiser),
        "generators": generators,
        **work.carried(),
    }
    values = {_STATE: {**state.to_json(), "data": work.fingerprint}}
    work.save(folder, state, Extras(values, tensors))


def read_fingerprint(last: Path) -> dict[str, Any] | None:
    """Return by what the run that wrote this `last/` knows its data; None where it does not say.

    Raises:
        TrainingError: the file that says it is damaged.
    """
    for name in (_STATE, _EARLIER_STATE):
        path = last / f"{name}.json"
        if path.exists():
            stored = read_json(path, "the run's state", TrainingError)
            found = stored.get("data") if isinstance(stored, dict) else None
            return dict(found) if isinstance(found, dict) else None
    return None


def restore(folder: Path, work: "Work", ranks: Ranks = ALONE) -> RunState:
    """Put back what `save_last` wrote, and return the counts.

    The sums of the interval are the first process's; the others' begin at nothing.

    Raises:
        CheckpointError: a file is missing or damaged, or it is another model's.
        TrainingError: the data are not those that the run began with.
    """
    work.load(folder)
    hashes = read_hashes(folder, ())
    name = _EARLIER_STATE if f"{_EARLIER_STATE}.json" in hashes else _STATE
    stored = read_extra(folder, hashes, name)
    if stored.pop("data") != work.fingerprint:
        raise TrainingError(
            f"{work.data_name} have changed since {folder} was written, so the run cannot go on "
            "exactly; restore them, or start a new run"
        )
    restore_optimiser(work.optimiser, read_extra(folder, hashes, "optimiser"))
    states = read_extra(folder, hashes, "generators")
    for name, generator in work.generators.items():
        # On another kind of device than before, the run goes on with fresh draws, and so does a
        # process that was not there. Earlier versions had fewer generators.
        if name in states and states[name].shape == generator.get_state().shape:
            generator.set_state(states[name])
    for group in work.carried():
        work.restore_carried(group, read_extra(folder, hashes, group))
    state = RunState.from_json(stored)
    if not ranks.is_first:
        state.interval.sums = {}
    return state
