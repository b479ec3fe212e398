"""Scheduler of many trainings side by side, each in its own process, within a time budget.

Complete runs are skipped and stopped ones are resumed. If this process is killed, nothing is lost:
the trainings get SIGTERM from the kernel (on Linux), save and end, and the next call resumes them.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from captioner.errors import TrainingError
from captioner.progress import Progress
from training.background import keep_niceness_in_group
from training.interruption import Interruption
from training.run_folder import RunFolder

BROKE_OFF = 1  # exit status of who carried out a plan some of whose runs failed
_POLL_SECONDS = 0.5
_COUNT_SECONDS = 5.0  # between two looks at how far all runs are, on a terminal
_COUNT_SECONDS_OF_A_LOG = 60.0  # which may grow for hours
_GRACE_SECONDS = 300.0  # for a training that was asked to stop: its step, then its save
_LEAST_SHARE_SECONDS = 1.0  # of a budget that is over
_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when its parent dies


class Named(Protocol):
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)  # a run


@dataclass(frozen=True, kw_only=True)
class Plan(ABC, Generic[R]):
    """What runs are, and how they are carried out.

    `budget_seconds` of training are shared among the runs, which are cut short by it.
    `deadline_seconds` after its start the schedule ends: it starts nothing that would not be
    over by then, and stops what still trains.
    """

    out: Path  # a folder for each run goes below it
    jobs: int
    budget_seconds: float | None = None  # to load and to test comes on top
    deadline_seconds: float | None = None

    def folder(self, run: R) -> Path:
        return self.out / "runs" / run.name

    def log(self, run: R) -> Path:
        """Return the file with what all processes of a run printed."""
        return self.out / "logs" / f"{run.name}.txt"

    @abstractmethod
    def asked_epochs(self, run: R) -> int: ...

    @abstractmethod
    def epochs(self, run: R) -> float:
        """Return how many epochs are done."""

    @abstractmethod
    def seconds(self, run: R) -> float:
        """Return how long the run has trained."""

    @abstractmethod
    def stage(self, run: R) -> str:
        """Return what a run needs a process for next; nothing when it is complete.

        When a process ends well, the run's next stage follows at once, if it is another one.
        """

    @abstractmethod
    def command(self, run: R, share_seconds: float | None) -> list[str]:
        """Return the command of the run's next stage, which may train for so long."""

    def expected_seconds(self, run: R) -> float | None:  # noqa: ARG002
        """Return how long the rest of a run will take; None where that is not known."""
        return None

    def is_complete(self, run: R) -> bool:
        return not self.stage(run)

    def failure(self, run: R) -> str:
        """Return the line by which a run said why it broke off; nothing if it did not."""
        if self.is_complete(run) or not self.log(run).exists():
            return ""
        lines = self.log(run).read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "")
        program, found, reason = said.partition(".py: ")
        return reason if found and program.isidentifier() else ""


@dataclass
class _Job(Generic[R]):
    run: R
    stage: str
    process: "subprocess.Popen[bytes]"
    share: float | None  # seconds of the budget that it may use
    seconds_before: float  # what it had trained when it was started


class Schedule(Generic[R]):
    """Carries a plan out."""

    def __init__(self, plan: Plan[R]) -> None:
        self.plan = plan
        self._running: list[_Job[R]] = []
        self._waiting: deque[R] = deque()
        self._started = time.monotonic()
        self._left: float | None = None  # seconds of the budget, of all jobs together
        if plan.budget_seconds is not None:
            self._left = plan.jobs * plan.budget_seconds

    def carry_out(self, runs: Iterable[R]) -> bool:
        """Train what is not complete; return False if a signal asked to stop before the end."""
        runs = list(runs)
        asked = sum(map(self.plan.asked_epochs, runs))
        self._waiting = deque(run for run in runs if not self.plan.is_complete(run))
        self._started = counted_at = time.monotonic()
        pause = _COUNT_SECONDS if sys.stderr.isatty() else _COUNT_SECONDS_OF_A_LOG
        with (
            Interruption() as interruption,
            Progress(asked, "grid", unit="epochs", initial=self._epochs(runs)) as progress,
        ):
            try:
                while (self._waiting or self._running) and not interruption.is_requested:
                    if self._seconds_left() <= 0:
                        break
                    self._fill()
                    time.sleep(_POLL_SECONDS)
                    self._reap()
                    if time.monotonic() - counted_at > pause:
                        self._count(runs, progress)
                        counted_at = time.monotonic()
            finally:
                self._stop_all()
            self._count(runs, progress)
        return not interruption.is_requested

    def _seconds_left(self) -> float:
        """Return how long the schedule may still go on."""
        deadline = self.plan.deadline_seconds
        if deadline is None:
            return float("inf")
        return deadline - (time.monotonic() - self._started)

    def _count(self, runs: Sequence[R], progress: Progress) -> None:
        complete = sum(map(self.plan.is_complete, runs))
        progress.advance(self._epochs(runs) - progress.count, runs=f"{complete}/{len(runs)}")

    def _epochs(self, runs: Iterable[R]) -> int:
        plan = self.plan
        return int(sum(min(plan.epochs(run), plan.asked_epochs(run)) for run in runs))

    def _fill(self) -> None:
        """Start as many waiting runs as there is room and time for."""
        for _ in range(len(self._waiting)):
            if len(self._running) >= self.plan.jobs:
                return
            run = self._waiting.popleft()
            if _is_locked(self.plan.folder(run)):
                self._waiting.append(run)  # by what an earlier call left running
                continue
            if (self.plan.expected_seconds(run) or 0.0) > self._seconds_left():
                continue
            share = None
            if self._left is not None:  # every waiting run gets the same
                share = max(self._left / (len(self._waiting) + 1), _LEAST_SHARE_SECONDS)
                self._left -= share
            before = self.plan.seconds(run)
            stage = self.plan.stage(run)
            self._running.append(_Job(run, stage, self._start(run, share), share, before))

    def _reap(self) -> None:
        """Take leave of what has ended; what it did not use of its share is for the others."""
        for job in [job for job in self._running if job.process.poll() is not None]:
            self._running.remove(job)
            if self._left is not None and job.share is not None:
                used = self.plan.seconds(job.run) - job.seconds_before
                self._left += max(0.0, job.share - used)
            if job.process.returncode == 0 and self.plan.stage(job.run) not in ("", job.stage):
                self._waiting.appendleft(job.run)

    def _start(self, run: R, share: float | None) -> "subprocess.Popen[bytes]":
        command = self.plan.command(run, share)
        log = self.plan.log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which passes it on once
                preexec_fn=_bound_to(os.getpid()),
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


def _bound_to(parent: int) -> Callable[[], None] | None:
    """Return what makes a child get SIGTERM when `parent` dies, where the system can do that."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(1)
        if os.nice(0) > 0:
            keep_niceness_in_group()

    return ask_kernel
