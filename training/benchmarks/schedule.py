"""Scheduler of many trainings side by side, each in its own process, with a shared time budget.

Complete runs are skipped and stopped ones are resumed. If this process is killed, nothing is lost:
the trainings get SIGTERM from the kernel (on Linux), save and end, and the next call resumes them.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captioner.errors import TrainingError
from captioner.progress import Progress
from training.benchmarks.reproductions import Run
from training.benchmarks.run_results import RunResult, read_result
from training.interruption import Interruption
from training.run_folder import RunFolder

_TRAINING = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.5
_COUNT_SECONDS = 5.0  # between two looks at how far all runs are
_GRACE_SECONDS = 300.0  # for a training that was asked to stop: its step, then its save
_LEAST_SHARE_SECONDS = 1.0  # of a budget that is over
_NO_LIMIT_MINUTES = 1e9  # a resumed run would keep the limit of an earlier call
_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when its parent dies


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How runs are carried out."""

    out: Path  # a folder for each run goes below it
    jobs: int
    epochs: int | None = None  # None is each setting's own number
    delays: tuple[int, ...] = ()  # a finished run is tested at these too
    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)  # more, by script
    budget_seconds: float | None = None  # of training; to load and to test comes on top

    def folder(self, run: Run) -> Path:
        return self.out / "runs" / run.name

    def asked_epochs(self, run: Run) -> int:
        return self.epochs or run.setting.epochs

    def log(self, run: Run) -> Path:
        """Return the file with what all processes of a run printed."""
        return self.out / "logs" / f"{run.name}.txt"

    def result(self, run: Run) -> RunResult:
        return read_result(self.folder(run))

    def is_complete(self, run: Run) -> bool:
        return self.result(run).is_complete(self.asked_epochs(run), self.delays)

    def failure(self, run: Run) -> str:
        """Return the line by which a run said why it broke off; nothing if it did not."""
        if self.is_complete(run) or not self.log(run).exists():
            return ""
        lines = self.log(run).read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line for line in lines if line.strip()]
        by_itself = f"{run.setting.script}.py: "
        return said[-1].removeprefix(by_itself) if said and by_itself in said[-1] else ""


@dataclass
class _Job:
    run: Run
    process: "subprocess.Popen[bytes]"
    share: float | None  # seconds of the budget that it may use
    seconds_before: float  # what it had trained when it was started


class Schedule:
    """Carries a plan out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._running: list[_Job] = []
        self._waiting: deque[Run] = deque()
        self._left: float | None = None  # seconds of the budget, of all jobs together
        if plan.budget_seconds is not None:
            self._left = plan.jobs * plan.budget_seconds

    def carry_out(self, runs: Iterable[Run]) -> bool:
        """Train what is not complete; return False if a signal asked to stop before the end."""
        runs = list(runs)
        asked = sum(map(self.plan.asked_epochs, runs))
        self._waiting = deque(run for run in runs if not self.plan.is_complete(run))
        with (
            Interruption() as interruption,
            Progress(asked, "grid", unit="epochs", initial=self._epochs(runs)) as progress,
        ):
            counted_at = time.monotonic()
            try:
                while (self._waiting or self._running) and not interruption.is_requested:
                    self._fill()
                    time.sleep(_POLL_SECONDS)
                    self._reap()
                    if time.monotonic() - counted_at > _COUNT_SECONDS:
                        self._count(runs, progress)
                        counted_at = time.monotonic()
                self._count(runs, progress)
            finally:
                self._stop_all()
        return not interruption.is_requested

    def _count(self, runs: Sequence[Run], progress: Progress) -> None:
        left = len(self._waiting) + len(self._running)
        progress.advance(
            self._epochs(runs) - progress.count, runs=f"{len(runs) - left}/{len(runs)}"
        )

    def _epochs(self, runs: Iterable[Run]) -> int:
        plan = self.plan
        return int(sum(min(plan.result(run).epochs, plan.asked_epochs(run)) for run in runs))

    def _fill(self) -> None:
        """Start as many waiting runs as there is room for."""
        for _ in range(len(self._waiting)):
            if len(self._running) >= self.plan.jobs:
                return
            run = self._waiting.popleft()
            if _is_locked(self.plan.folder(run)):
                self._waiting.append(run)  # by what an earlier call left running
                continue
            share = None
            if self._left is not None:  # every waiting run gets the same
                share = max(self._left / (len(self._waiting) + 1), _LEAST_SHARE_SECONDS)
                self._left -= share
            before = self.plan.result(run).seconds
            self._running.append(_Job(run, self._start(run, share, before), share, before))

    def _reap(self) -> None:
        """Take leave of what has ended; what it did not use of its share is for the others."""
        for job in [job for job in self._running if job.process.poll() is not None]:
            self._running.remove(job)
            if self._left is not None and job.share is not None:
                used = self.plan.result(job.run).seconds - job.seconds_before
                self._left += max(0.0, job.share - used)

    def _start(self, run: Run, share: float | None, before: float) -> "subprocess.Popen[bytes]":
        folder = self.plan.folder(run)
        command = [sys.executable, str(_TRAINING / f"{run.setting.script}.py")]
        if (folder / "last").exists() or (folder / ".last.previous").exists():
            command += ["--resume", str(folder)]
        else:
            if folder.exists():  # killed before anything was saved
                shutil.rmtree(folder)
            command += ["--out", str(folder), *run.arguments]
        command += ["--epochs", str(self.plan.asked_epochs(run))]
        command += self.plan.arguments.get(run.setting.script, ())
        minutes = _NO_LIMIT_MINUTES if share is None else (before + share) / 60
        command += ["--minutes", f"{minutes:.9g}"]
        if self.plan.delays:
            command += ["--transfer", *map(str, self.plan.delays)]
        log = self.plan.log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which passes it on once
                preexec_fn=_die_with(os.getpid()),
            )

    def _stop_all(self) -> None:
        """Ask all to save and end: once, for a second signal would end them before they have."""
        for job in self._running:
            job.process.terminate()
        for job in self._running:
            try:
                job.process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
        self._running.clear()


def _is_locked(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        with RunFolder(folder).locked():
            return False
    except TrainingError:
        return True


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what makes a child get SIGTERM when `parent` dies, where the system can do that."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(1)

    return ask_kernel
