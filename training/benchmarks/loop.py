"""The training loop of all benchmarks: batch, loss, update; validation at the end of each epoch.

A run is a function of its configuration: when it is saved, interrupted or resumed changes no
number. Data, initialisation, order and masks have generators of their own, so two runs that
differ in `--p` differ in nothing else. Nothing waits for the device between updates.
"""

import enum
import math
import time
from collections.abc import Callable
from contextlib import closing

import torch
from torch import nn

from captioner.errors import TrainingError
from captioner.files import read_json, write_json
from captioner.progress import Progress, duration
from training.benchmarks.config import Experiment
from training.benchmarks.run_state import (
    Standing,
    Trained,
    load_model,
    restore,
    save_last,
    save_model,
)
from training.benchmarks.task import Figures, Task
from training.interruption import Interruption
from training.methods import load_method
from training.plots import draw_curves
from training.randomness import derived_generator
from training.run_folder import MetricsLog, RunFolder, read_metrics

_LOG_EVERY_UPDATES = 100
_GOAL_VALIDATIONS = 2  # running, to be as good as --stop-at


class Outcome(enum.Enum):
    FINISHED = "all epochs are done"
    REACHED = "two validations running reached --stop-at"
    OUT_OF_TIME = "the time that --minutes allows is over"
    INTERRUPTED = "interrupted"


class Loop:
    """Trains the model of an experiment on a task, and keeps the run's folder."""

    def __init__(
        self,
        task: Task,
        experiment: Experiment,
        device: torch.device,
        folder: RunFolder,
        announce: Callable[[str], None],
    ) -> None:
        self.standing = Standing()
        self._task = task
        self._experiment = experiment
        self._config = config = experiment.config
        self._folder = folder
        self._announce = announce
        initial = derived_generator(config.seed, "initialisation")
        method = load_method(config.model).method(
            task.input_size, config.hidden_size, experiment.method, generator=initial
        )
        self._model = task.build_model(method, initial).to(device)
        self._parameters = list(self._model.parameters())
        self._trained = Trained(
            self._model,
            torch.optim.Adam(self._parameters, lr=config.lr, fused=True),
            derived_generator(config.seed, "masks", device=device),
        )
        self._interval_loss = torch.zeros((), dtype=torch.float64, device=device)
        self._per_epoch = task.updates_per_epoch
        self._total = config.epochs * self._per_epoch
        self._here_updates, self._here_seconds = 0, 0.0  # of this process

    def resume(self) -> None:
        """Take up what `last/` holds."""
        self.standing = restore(self._folder.last, self._task, self._experiment, self._trained)
        self._interval_loss.fill_(self.standing.interval_loss)

    def run(self) -> Outcome:
        """Train to the end, or until interrupted; `last/` then holds exactly where.

        Raises:
            TrainingError: the loss is no number.
            StorageError: the disk is full; the checkpoints before are whole.
        """
        with closing(self._open_log()) as log, Interruption() as interruption:
            self._log, self._interruption = log, interruption
            self._saved_at = time.monotonic()
            outcome = self._go_on()
            if self.standing.update and outcome is not Outcome.FINISHED:
                self._save_last()
            return outcome

    def test(self, outcome: Outcome) -> dict[str, Figures]:
        """Ask the best model what the task wants to know at the end; write and return it.

        What an earlier process already asked of the same model is not asked again.
        """
        folder, task, standing = self._folder, self._task, self.standing
        load_model(folder.best, self._model, task, self._experiment)
        self._model.eval()
        done: dict[str, Figures] = {}
        if folder.result.exists():
            earlier = read_json(folder.result, "the run's result", TrainingError)
            if earlier.get("best_update") == standing.best_update:
                done = dict(earlier["tests"])
        self._write_result(outcome, done)
        with closing(self._open_log()) as log:
            for name, ask in task.tests().items():
                if name not in done:
                    self._announce(f"testing the best model: {name}")
                    done[name] = ask(self._model)
                    self._write_result(outcome, done)
            for name, figures in done.items():
                log.write(name, standing.update, figures)
        return done

    def _open_log(self) -> MetricsLog:
        standing = self.standing
        return MetricsLog(self._folder, kept_bytes=standing.metrics_bytes, step=standing.update)

    def _write_result(self, outcome: Outcome, tests: dict[str, Figures]) -> None:
        standing, config = self.standing, self._config
        result = {
            "outcome": outcome.name.lower(),
            "epochs": standing.update / self._per_epoch,
            "of_epochs": config.epochs,
            "updates": standing.update,
            "seconds": round(standing.seconds, 1),
            "best_epoch": standing.best_update / self._per_epoch,
            "best_update": standing.best_update,
            "validation": standing.best,
            "tests": tests,
            "config": self._experiment.to_json(),
        }
        write_json(self._folder.result, result)

    def _go_on(self) -> Outcome:
        standing, config = self.standing, self._config
        while True:
            is_epoch_over = standing.update % self._per_epoch == 0
            if standing.update != standing.validated_update and is_epoch_over:
                self._validate()
            if self._interruption.is_requested:
                return Outcome.INTERRUPTED
            if standing.update >= self._total:
                return Outcome.FINISHED
            if standing.reached >= _GOAL_VALIDATIONS and config.stop_at is not None:
                return Outcome.REACHED
            if self._is_out_of_time():
                if not standing.best:
                    self._validate()  # so that there is a model to test
                return Outcome.OUT_OF_TIME
            self._train_to_next_stop()

    def _train_to_next_stop(self) -> None:
        """Train to the end of the epoch, or to what ends the run within it."""
        standing, config, task, model = self.standing, self._config, self._task, self._model
        optimiser, masks = self._trained.optimiser, self._trained.masks
        epoch, position = divmod(standing.update, self._per_epoch)
        if epoch >= config.epochs - config.anneal_epochs:
            model.method.stop_detaching()
        model.train()
        with Progress(
            self._per_epoch,
            f"epoch {epoch + 1}/{config.epochs}",
            unit="updates",
            initial=position,
        ) as progress:
            counted_at = time.monotonic()
            for batch in task.batches(epoch, start=position):
                loss = task.loss(model, batch, masks)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                if config.clip:
                    nn.utils.clip_grad_norm_(self._parameters, config.clip)
                optimiser.step()
                self._interval_loss += loss.detach()
                standing.update += 1
                standing.interval_updates += 1
                now = time.monotonic()
                self._count(now - counted_at)
                counted_at = now
                progress.advance(1, **self._time_left())
                if standing.update % _LOG_EVERY_UPDATES == 0:
                    self._log_training()
                if self._interruption.is_requested or self._is_out_of_time():
                    return
                if now - self._saved_at >= config.save_every:
                    self._save_last()

    def _count(self, seconds: float) -> None:
        self.standing.seconds += seconds
        self._here_seconds += seconds
        self._here_updates += 1

    def _is_out_of_time(self) -> bool:
        minutes = self._config.minutes
        return minutes is not None and self.standing.seconds >= 60.0 * minutes

    def _time_left(self) -> dict[str, str]:
        """Return how long the whole run will take from here, at most."""
        left = (self._total - self.standing.update) * self._here_seconds / self._here_updates
        if self._config.minutes is not None:
            left = min(left, max(0.0, 60.0 * self._config.minutes - self.standing.seconds))
        return {"run": f"{duration(left)} left"}

    def _log_training(self) -> None:
        """Write the mean loss since the last line, and look whether it is a number."""
        standing = self.standing
        if not standing.interval_updates:
            return
        mean = self._interval_loss.item() / standing.interval_updates
        if not math.isfinite(mean):
            raise self._not_a_number(f"the loss is {mean}")
        self._log.write(
            "train",
            standing.update,
            {
                "epoch": standing.update / self._per_epoch,
                "loss": mean,
                "seconds": standing.seconds,
            },
        )
        standing.interval_updates = 0
        self._interval_loss.zero_()

    def _validate(self) -> None:
        standing, folder, task = self.standing, self._folder, self._task
        self._log_training()
        self._check_weights()
        started = time.monotonic()
        self._model.eval()
        figures = task.validate(self._model)
        standing.seconds += time.monotonic() - started
        if not all(map(math.isfinite, figures.values())):
            raise self._not_a_number(f"the validation gives {figures}")
        is_best = standing.take(figures, task, self._config.stop_at)
        if is_best:
            save_model(folder.best, self._model, task, self._experiment, standing)
        epoch = standing.update / self._per_epoch
        self._announce(
            f"validation after epoch {epoch:g}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            + (" (the best so far)" if is_best else "")
        )
        self._log.write(
            "validation",
            standing.update,
            {"epoch": epoch, **figures, "seconds": standing.seconds},
        )
        draw_curves(
            read_metrics(folder),
            folder.curves,
            scores=(task.score,),
            loss_label="training loss",
            score_label=task.score,
        )
        self._save_last()

    def _save_last(self) -> None:
        self._check_weights()
        self.standing.metrics_bytes = self._log.bytes_written
        self.standing.interval_loss = self._interval_loss.item()
        save_last(self._folder.last, self._task, self._experiment, self.standing, self._trained)
        self._saved_at = time.monotonic()

    def _check_weights(self) -> None:
        if not math.isfinite(self._interval_loss.item()):
            raise self._not_a_number("the loss is no number")
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters):
            raise self._not_a_number("the weights hold NaN or infinite values")

    def _not_a_number(self, what: str) -> TrainingError:
        good = [path for path in (self._folder.last, self._folder.best) if path.exists()]
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint yet"
        return TrainingError(
            f"{what} at update {self.standing.update:,}; {where}, nothing was overwritten; "
            "lower --lr, or bound the gradients by --clip 1"
        )
