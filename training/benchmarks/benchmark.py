"""Training of a recurrent network on a task of the paper, as the work of a run and as a program.

Data, initialisation, order and masks have separate generators, so two runs that differ in `--p`
differ in nothing else. Nothing waits for the device between steps, which the benchmarks call
updates.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.devices import choose_device
from captioner.errors import CheckpointError, TrainingError
from captioner.files import read_json, write_json
from captioner.hashed_folder import hashed_folder_written_aside, read_hashes, verified
from captioner.tensor_files import write_extras, write_tensors
from captioner.text import in_one_line
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Batch, Task
from training.command import Configured, Program, say, train
from training.distributed import Ranks
from training.methods import load_method
from training.plots import Curves
from training.randomness import derived_generator
from training.run import Outcome, Run
from training.run_folder import RunFolder
from training.run_state import Extras, RunState
from training.work import BatchLoss, Figures, RunSchedule, Work

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
        self.score, self.goal = task.score, config.stop_at
        self.higher_is_better, self.latest_tie_wins = task.higher_is_better, task.latest_tie_wins
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
        self.facts = {"threads": torch.get_num_threads()}
        self.fingerprint = task.fingerprint()
        self.generators = {"masks": derived_generator(config.seed, "masks", device=device)}

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

    def save(self, folder: Path, state: RunState, extras: Extras) -> None:
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
            write_extras(aside, *extras)

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


@dataclass(frozen=True, kw_only=True)
class Script(Program):
    """A program that trains on one task."""

    name: str
    description: str
    config: type[BenchmarkConfig]
    task: Callable[[Any, torch.device], Task]
    data_name: Callable[[Any], str]  # begins the name of the default folder

    def configure(self, given: Mapping[str, Any]) -> Configured:
        config = self.config.from_json(given)
        p = f"-p{config.p:g}" if hasattr(config, "p") else ""
        name = f"{self.data_name(config)}-{config.model}{p}-seed{config.seed}"
        return Configured(config, None, name)

    def work(
        self,
        configured: Configured,
        folder: RunFolder,  # noqa: ARG002
        ranks: Ranks,  # noqa: ARG002
    ) -> Benchmark:
        config = configured.config
        device = choose_device(config.device)
        return Benchmark(self.task(config, device), config, device)

    def report(self, run: Run, outcome: Outcome) -> None:
        state, folder, work, epochs = run.state, run.folder, run.work, run.work.schedule.epochs_in
        assert isinstance(work, Benchmark)
        tests = work.test(run, outcome, say)
        say(f"training is over after {epochs(state.step):g} epochs: {outcome.value}")
        best = f"best validation, after epoch {epochs(state.best_step):g}"
        for name, figures in {best: state.best, **tests}.items():
            say(f"{name}: {work.describe(figures)}")
        say(f"everything lies in {folder.path}: result.json, metrics.jsonl, curves.png,")
        say("  config.json, events/ (TensorBoard), best/ and last/ (checkpoints)")

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Train as the command line says, and return the exit status."""
        torch.set_flush_denormal(True)  # threads inherit it; gradients fade in long sequences
        return train(self, argv)
