"""Training of a recurrent network on a task of the paper, as the work of a run.

Data, initialisation, order and masks have separate generators, so two runs that differ in `--p`
differ in nothing else. Nothing waits for the device between steps, which the benchmarks call
updates.
"""

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.errors import CheckpointError, TrainingError
from captioner.files import read_json, write_json
from captioner.hashed_folder import (
    hashed_folder_written_aside,
    read_hashes,
    verified,
    write_extras,
    write_tensors,
)
from captioner.text import in_one_line
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Batch, Task
from training.methods import load_method
from training.randomness import derived_generator
from training.run import Outcome, Run
from training.run_state import RunState
from training.work import BatchLoss, Curves, Figures, RunSchedule, Work

_LOG_EVERY_UPDATES = 100
_FORMAT = 1
_MODEL, _WEIGHTS = "model.json", "model.safetensors"


class Benchmark(Work):
    step_name = "update"
    gradient_remedy = "--clip 1"
    checks_every_loss = False

    def __init__(self, task: Task, config: BenchmarkConfig, device: torch.device) -> None:
        self._task = task
        self._config = config
        self.data_name = f"the data of {task.name}"
        self.curves = Curves([task.score], loss_label="training loss", score_label=task.score)
        self.schedule = RunSchedule(
            epochs=config.epochs,
            steps_per_epoch=task.updates_per_epoch,
            log_every=_LOG_EVERY_UPDATES,
            validate_every=task.updates_per_epoch,
            save_every=config.save_every,
            minutes=config.minutes,
        )
        initial = derived_generator(config.seed, "initialisation")
        method = load_method(config.model).method(
            task.input_size, config.hidden_size, config.part("model"), generator=initial
        )
        self._model = task.build_model(method, initial).to(device)
        self.parameters = list(self._model.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=config.lr, fused=True)
        self.generators = {"masks": derived_generator(config.seed, "masks", device=device)}

    def facts(self) -> dict[str, Any]:
        return {"threads": torch.get_num_threads()}

    def batches(self, epoch: int, *, start: int) -> Generator[Batch]:
        yield from self._task.batches(epoch, start=start)

    def start_training(self, epoch: int) -> None:
        if epoch >= self._config.epochs - self._config.anneal_epochs:
            self._model.method.stop_detaching()
        self._model.train()

    def loss(self, batch: Batch, step: int) -> BatchLoss:  # noqa: ARG002
        return BatchLoss(self._task.loss(self._model, batch, self.generators["masks"]))

    def update(self, step: int) -> None:  # noqa: ARG002
        if self._config.clip:
            nn.utils.clip_grad_norm_(self.parameters, self._config.clip)
        self.optimiser.step()

    def validate(self, step: int, is_stopping: Callable[[], bool]) -> Figures:  # noqa: ARG002
        self._model.eval()
        return self._task.validate(self._model)

    def is_better(self, figures: Figures, best: Figures) -> bool:
        return self._task.is_better(figures[self._task.score], best[self._task.score])

    def reaches_goal(self, figures: Figures) -> bool:
        goal = self._config.stop_at
        return goal is not None and self._task.reaches(figures[self._task.score], goal)

    def save(
        self,
        folder: Path,
        state: RunState,
        *,
        json_values: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        with hashed_folder_written_aside(folder) as aside:
            description = {
                "format_version": _FORMAT,
                "task": self._task.name,
                "config": self._config.to_json(),
                "update": state.step,
                "epoch": self.schedule.epochs_in(state.step),
                "validation": state.best if state.best_step == state.step else {},
            }
            write_json(aside / _MODEL, description)
            write_tensors(aside / _WEIGHTS, self._model.state_dict())
            write_extras(aside, json_values, tensors)

    def load(self, folder: Path) -> None:
        """Give the model the weights in a checkpoint.

        Raises:
            CheckpointError: a file is missing or damaged, or it is another task's or model's.
        """
        hashes = read_hashes(folder, (_MODEL, _WEIGHTS))
        description = read_json(
            verified(folder, hashes, _MODEL), "the checkpoint's description", CheckpointError
        )
        found = description.get("task"), description.get("config", {}).get("model")
        wanted = self._task.name, self._config.model
        if found != wanted:
            raise CheckpointError(
                f"{folder} holds the model {found[1]} for {found[0]}, and this run's is "
                f"{wanted[1]} for {wanted[0]}; put its own checkpoint back, or start a new run"
            )
        try:
            self._model.load_state_dict(load_file(verified(folder, hashes, _WEIGHTS)))
        except (RuntimeError, SafetensorError) as problem:
            reason = in_one_line(problem)
            raise CheckpointError(
                f"the weights in {folder} are those of another model ({reason[:200]}); put the "
                "run's own checkpoint back, or start a new run"
            ) from problem

    def fingerprint(self) -> dict[str, Any]:
        return self._task.fingerprint()

    def carried(self) -> dict[str, dict[str, Tensor]]:
        return {"memory": self._task.memory()}

    def restore_carried(self, group: str, tensors: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        self._task.restore_memory(tensors)

    def test(
        self, run: Run, outcome: Outcome, announce: Callable[[str], None]
    ) -> dict[str, Figures]:
        """Ask the best model what the task wants to know at the end; write and return it.

        What an earlier process already asked of the same model is not asked again.
        """
        folder, state = run.folder, run.state
        self.load(folder.best)
        self._model.eval()
        done: dict[str, Figures] = {}
        if folder.result.exists():
            earlier = read_json(folder.result, "the run's result", TrainingError)
            if earlier.get("best_update") == state.best_step:
                done = dict(earlier["tests"])
        self._write_result(run, outcome, done)
        for name, ask in self._task.tests().items():
            if name not in done:
                announce(f"testing the best model: {name}")
                done[name] = ask(self._model)
                self._write_result(run, outcome, done)
        for name, figures in done.items():
            run.log.write(name, state.step, figures)
        return done

    def _write_result(self, run: Run, outcome: Outcome, tests: dict[str, Figures]) -> None:
        state = run.state
        result = {
            "outcome": outcome.name.lower(),
            "epochs": self.schedule.epochs_in(state.step),
            "of_epochs": self._config.epochs,
            "updates": state.step,
            "seconds": round(state.seconds, 1),
            "best_epoch": self.schedule.epochs_in(state.best_step),
            "best_update": state.best_step,
            "validation": state.best,
            "tests": tests,
            "config": self._config.to_json(),
        }
        write_json(run.folder.result, result)
