"""The run engine: training step by step, validation, logging, saving, interruption, resuming.

A run is a function of its configuration: when it is saved, interrupted or resumed changes no
number. What is trained is a `Work`; everything random is drawn from generators derived from the
seed (`randomness.py`). Several processes run the same loop side by side and agree on each step;
the first one writes (`distributed.py`).
"""

import enum
import math
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from captioner.errors import TrainingError
from captioner.options import Options
from captioner.progress import Progress, duration
from training.distributed import ALONE, Ranks
from training.interruption import Interruption
from training.plots import draw_curves
from training.run_folder import MetricsLog, NoLog, RunFolder, read_metrics
from training.run_state import Extras, Interval, Pace, RunState, restore, save_last
from training.work import Work

_GOAL_VALIDATIONS = 2  # running, that reach the goal and so end the run


class Outcome(enum.Enum):
    FINISHED = "all epochs are done"
    STOPPED_EARLY = "no better CIDEr for as many validations as --patience allows"
    REACHED = "two validations running reached --stop-at"
    OUT_OF_TIME = "the time that --minutes allows is over"
    INTERRUPTED = "interrupted"


class _Next(enum.IntEnum):
    """What follows a step."""

    GO = 0
    SAVE = 1
    STOP = 2


@dataclass
class Run:
    """A work in training, and the folder that keeps it; to be closed in the end."""

    work: Work
    folder: RunFolder
    state: RunState
    log: MetricsLog
    _announce: Callable[[str], None]
    _ranks: Ranks
    _interruption: Interruption
    _saved_at: float = field(default_factory=time.monotonic)
    _pace: Pace = field(default_factory=Pace)  # of this process

    @classmethod
    def open(
        cls,
        work: Work,
        folder: RunFolder,
        config: Options,
        facts: Mapping[str, Any],
        announce: Callable[[str], None],
        ranks: Ranks = ALONE,
    ) -> Self:
        """Go on where `last/` stands, or begin; `config.json` then holds `config` and `facts`.

        Raises:
            CheckpointError: a file of `last/` is missing or damaged, or it is another model's.
            TrainingError: the data are not those that the run began with, or another process of
                `ranks` finds another state of the run.
        """
        state = restore(folder.last, work, ranks) if folder.last.exists() else RunState()
        _check_that_all_see(folder, state, ranks)
        if ranks.is_first:
            folder.write_config(config, {**facts, "processes": ranks.size})
            log = MetricsLog(folder, kept_bytes=state.metrics_bytes, step=state.step)
        else:
            log = NoLog()
        if not log.has_events:
            announce("no TensorBoard events: the package tensorboard is not installed")
        interruption = Interruption(is_announced=ranks.is_first)
        return cls(work, folder, state, log, announce, ranks, interruption)

    def close(self) -> None:
        """Close the log."""
        self.log.close()

    def train(self) -> Outcome:
        """Train to the end, or until interrupted; `last/` then holds exactly where.

        Raises:
            TrainingError: the loss is no number.
            StorageError: the disk is full; the checkpoints before are whole.
        """
        with self._interruption:
            while (outcome := self._outcome()) is None:
                self._train_to_next_stop()
            return outcome

    def _outcome(self) -> Outcome | None:
        """Validate where it is due, and return how the run ends here, None if it goes on."""
        state, schedule = self.state, self.work.schedule
        if self._is_validation_due():
            self._validate()
        if self._ranks.most(int(self._interruption.is_requested)):
            if state.step:
                self._save_last()
            return Outcome.INTERRUPTED
        if schedule.patience and state.stale_validations >= schedule.patience:
            return Outcome.STOPPED_EARLY
        if state.step >= schedule.total_steps:
            return Outcome.FINISHED
        if state.reached_validations >= _GOAL_VALIDATIONS:
            return Outcome.REACHED
        if self._ranks.most(int(self._is_out_of_time())):  # each has a clock of its own
            if not state.best:  # there must be a model to test
                self._log_training()
                self._validate()
            self._save_last()
            return Outcome.OUT_OF_TIME
        return None

    def _is_validation_due(self) -> bool:
        step, schedule = self.state.step, self.work.schedule
        if step == self.state.validated_step:
            return False
        return step % schedule.validate_every == 0 or step >= schedule.total_steps

    def _is_out_of_time(self) -> bool:
        minutes = self.work.schedule.minutes
        return minutes is not None and self.state.seconds >= 60.0 * minutes

    def _train_to_next_stop(self) -> None:
        """Train to the end of the epoch, or to what ends or interrupts it before."""
        work, state, schedule = self.work, self.state, self.work.schedule
        epoch, position = divmod(state.step, schedule.steps_per_epoch)
        end = min(
            (epoch + 1) * schedule.steps_per_epoch,
            (state.step // schedule.validate_every + 1) * schedule.validate_every,
            schedule.total_steps,
        )
        work.start_training(epoch)
        if state.step == work.costlier_from_step:
            self._pace = Pace()
        with (
            closing(work.batches(epoch, start=position)) as batches,
            Progress(
                schedule.steps_per_epoch,
                f"epoch {epoch + 1}/{schedule.epochs}",
                unit=f"{work.step_name}s",
                initial=position,
                enabled=self._ranks.is_first,
            ) as progress,
        ):
            counted_at = time.monotonic()
            while state.step < end:
                self._train_step(next(batches))
                counted_at = self._count_seconds(counted_at)
                progress.advance(1, **self._progress())
                is_epoch_over = state.step % schedule.steps_per_epoch == 0
                if state.step % schedule.log_every == 0 or is_epoch_over:
                    self._log_training()
                match self._next(counted_at):
                    case _Next.STOP:
                        return
                    case _Next.SAVE:
                        self._save_last()

    def _next(self, now: float) -> "_Next":
        """Return what all processes do after this step: the most that one has cause for."""
        wish = _Next.GO
        if self._interruption.is_requested or self._is_out_of_time():
            wish = _Next.STOP
        elif now - self._saved_at >= self.work.schedule.save_every:
            wish = _Next.SAVE
        return _Next(self._ranks.most(wish))

    def _train_step(self, batch: Any) -> None:
        work, step = self.work, self.state.step
        self.state.step += 1
        found = work.loss(batch, step)
        if found is None:
            return
        if work.checks_every_loss and not math.isfinite(found.loss.item()):
            raise self._not_a_number(f"the loss is {found.loss.item()}")
        work.optimiser.zero_grad(set_to_none=True)
        if found.loss.requires_grad:  # not so where this process has no part in the batch
            found.loss.backward()
        self._ranks.add_gradients(work.parameters)
        work.update(step)
        self.state.interval.add(found)
        self._pace.add(found)

    def _count_seconds(self, since: float) -> float:
        now = time.monotonic()
        self.state.seconds += now - since
        self.state.interval.seconds += now - since
        self._pace.seconds += now - since
        return now

    def _progress(self) -> dict[str, str]:
        """Return what the progress shows, and how long the whole run takes from here."""
        pace, state, schedule = self._pace, self.state, self.work.schedule
        if not pace.steps:
            return {}
        left = (schedule.total_steps - state.step) * pace.seconds / pace.steps
        if schedule.minutes is not None:
            left = min(left, max(0.0, 60.0 * schedule.minutes - state.seconds))
        is_lower_bound = 0 < state.step <= self.work.costlier_from_step
        left_text = f"{'> ' if is_lower_bound else ''}{duration(left)} left"
        speed = {"captions/s": f"{pace.captions / pace.seconds:.0f}"} if pace.captions else {}
        return {**speed, "run": left_text}

    def _log_training(self) -> None:
        """Write the means since the last line, and look whether the loss is a number."""
        state, interval = self.state, self.state.interval
        if interval.weight:
            means = interval.together(self._ranks).means()
            if not math.isfinite(means["loss"]):
                raise self._not_a_number(f"the loss is {means['loss']}")
            figures = {"epoch": self.work.schedule.epochs_in(state.step), **means}
            figures |= self.work.log_figures()
            if interval.captions:
                figures["captions_per_second"] = interval.captions / interval.seconds
            self.log.write("train", state.step, {**figures, "seconds": state.seconds})
        state.interval = Interval()

    def _validate(self) -> None:
        """Validate, keep the best; a wish to stop leaves the validation for the next time."""
        self._check_weights()
        work, state, folder = self.work, self.state, self.folder
        started = time.monotonic()
        with work.evaluating():
            figures = work.validate(state.step, lambda: self._interruption.is_requested)
            if figures is None:
                return
            if not all(map(math.isfinite, figures.values())):
                raise self._not_a_number(f"the validation gives {figures}")
            is_best = not state.best or work.is_better(figures, state.best)
            state.note_validation(figures, is_best=is_best, is_at_goal=work.reaches_goal(figures))
            if is_best and self._ranks.is_first:
                work.save(folder.best, state, Extras())
        state.seconds += time.monotonic() - started
        epoch = self.work.schedule.epochs_in(state.step)
        self._announce(
            f"validation after epoch {epoch:g}: {work.describe(figures)}"
            + (" (the best so far)" if is_best else "")
        )
        self.log.write(
            "validation", state.step, {"epoch": epoch, **figures, "seconds": state.seconds}
        )
        if self._ranks.is_first:
            work.show(folder)
            draw_curves(read_metrics(folder), folder.curves, work.curves)
        self._save_last()

    def _save_last(self) -> None:
        self._check_weights()
        self.state.metrics_bytes = self.log.bytes_written
        save_last(self.folder.last, self.work, self.state, self._ranks)
        self._saved_at = time.monotonic()

    def _check_weights(self) -> None:
        if not math.isfinite(self.state.interval.sum("loss")):
            raise self._not_a_number("the loss is no number")
        if not all(bool(torch.isfinite(weight).all()) for weight in self.work.parameters):
            raise self._not_a_number("the weights hold NaN or infinite values")

    def _not_a_number(self, what: str) -> TrainingError:
        good = [path for path in (self.folder.last, self.folder.best) if path.exists()]
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
        return TrainingError(
            f"{what} at {self.work.step_name} {self.state.step:,}; {where}, nothing was "
            f"overwritten; lower --lr, or bound the gradients by {self.work.gradient_remedy}"
        )


def _check_that_all_see(folder: RunFolder, state: RunState, ranks: Ranks) -> None:
    """Raise TrainingError unless all processes go on at the same step."""
    first, *others = ranks.gather((socket.gethostname(), state.step))
    for rank, (host, step) in enumerate(others, 1):
        if step != first[1]:
            raise TrainingError(
                f"process {rank} on {host} finds step {step:,} in {folder.last}, and process 0 on "
                f"{first[0]} step {first[1]:,}; all machines must see the same folder of the run"
            )
