"""Plan of a benchmark's runs: which script trains each, and when a run is complete."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.benchmarks.reproductions import Run
from training.benchmarks.run_results import RunResult, read_result
from training.schedule import Plan

_TRAINING = Path(__file__).resolve().parents[1]
_NO_LIMIT_MINUTES = 1e9  # a resumed run would keep the limit of an earlier call


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan(Plan[Run]):
    epochs_of_all: int | None = None  # None is each setting's own number
    delays: tuple[int, ...] = ()  # a finished run is tested at these too
    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)  # more, by script
    made_elsewhere: Mapping[str, RunResult] = field(default_factory=dict)  # by the run's name

    def asked_epochs(self, run: Run) -> int:
        return self.epochs_of_all or run.setting.epochs

    def result(self, run: Run) -> RunResult:
        """Return what the run has come to, in its folder or elsewhere, where it went further."""
        here, other = self._result_here(run), self.made_elsewhere.get(run.name)
        return here if other is None or here.epochs >= other.epochs else other

    def epochs(self, run: Run) -> float:
        return self.result(run).epochs

    def seconds(self, run: Run) -> float:
        return self._result_here(run).seconds  # what another machine took is not gone on with

    def stage(self, run: Run) -> str:
        is_complete = self.result(run).is_complete(self.asked_epochs(run), self.delays)
        return "" if is_complete else "train"

    def _result_here(self, run: Run) -> RunResult:
        return read_result(self.folder(run), run.setting.score)

    def command(self, run: Run, share_seconds: float | None) -> list[str]:
        folder = self.folder(run)
        command = [sys.executable, str(_TRAINING / f"{run.setting.script}.py")]
        if (folder / "last").exists() or (folder / ".last.previous").exists():
            command += ["--resume", str(folder)]
        else:
            if folder.exists():  # killed before anything was saved
                shutil.rmtree(folder)
            command += ["--out", str(folder), *run.arguments]
        command += ["--epochs", str(self.asked_epochs(run))]
        command += self.arguments.get(run.setting.script, ())
        minutes = _NO_LIMIT_MINUTES
        if share_seconds is not None:
            minutes = (self.seconds(run) + share_seconds) / 60
        command += ["--minutes", f"{minutes:.9g}"]
        if self.delays:
            command += ["--transfer", *map(str, self.delays)]
        return command
