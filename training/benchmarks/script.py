"""The scripts of the benchmarks as programs: one task each, and any recurrent method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from captioner.devices import choose_device
from training.benchmarks.benchmark import Benchmark
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Task
from training.command import Configured, Program, run_program, say
from training.run import Outcome, Run
from training.run_folder import RunFolder


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

    def work(self, configured: Configured, folder: RunFolder) -> Benchmark:  # noqa: ARG002
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


def run_script(script: Script, argv: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    torch.set_flush_denormal(True)  # threads inherit it from here; gradients fade in long sequences
    return run_program(script, argv)
