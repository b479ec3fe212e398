"""Supervisor of several serving processes on one socket: starts, replaces and signals them.

The socket is bound once and shared, so connections that wait for a killed worker are taken by
another. The supervisor loads no model and no torch. When it dies, its workers end.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from captioner.checkpoint_folders import DEPLOYABLE
from serving.settings import Settings
from serving.startup import BAD_INPUT, handle_signals_before_serving
from serving.telemetry.metrics import FOLDER_VARIABLE
from serving.telemetry.metrics_folder import MetricsFolder

CHECK_SECONDS = 1.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0  # before a worker that dies is replaced
STABLE_SECONDS = 10.0
KILL_AFTER_SECONDS = 5.0  # beyond the time to drain

# A new worker is a fork of a process that has imported everything and done nothing: it is ready
# sooner than one that imports anew, and what was imported is in memory once.
_context = multiprocessing.get_context("forkserver")


@dataclass(eq=False)
class Worker:
    """One serving process and the pipe to it."""

    process: ForkServerProcess
    pipe: Connection
    started: float = field(default_factory=time.monotonic)


class Supervisor:
    """Keeps `settings.workers` processes alive until a signal ends it."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        _context.set_forkserver_preload(["serving.server", *modules_of_engine(settings)])
        self.listener = listener
        self.workers: list[Worker] = []
        self._was_ready = False  # any worker, ever
        self._pause = 0.0
        self._next_start = 0.0
        self._wakeup_in, self._wakeup_out = os.pipe()
        os.set_blocking(self._wakeup_out, False)

    def run(self) -> int:
        """Return the exit status, after all workers have ended."""
        folder = MetricsFolder.make()
        os.environ[FOLDER_VARIABLE] = str(folder.path)  # the workers inherit it
        signal.set_wakeup_fd(self._wakeup_out)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # the wakeup pipe gets its number
        try:
            return self._supervise()
        finally:
            folder.drop()

    def _supervise(self) -> int:
        while True:
            self._start_missing()
            status = self._watch()
            if status is not None:
                return self._stop(status)

    def _start_missing(self) -> None:
        now = time.monotonic()
        while len(self.workers) < self.settings.workers and now >= self._next_start:
            ours, theirs = _context.Pipe()
            process = _context.Process(
                target=run_worker,
                args=(self.settings, self.listener, theirs, self._was_ready),
                daemon=False,
            )
            process.start()
            theirs.close()
            self.workers.append(Worker(process, ours))

    def _watch(self) -> int | None:
        """Wait for news; return an exit status if the service is to end, or cannot go on."""
        sources = [self._wakeup_in, *(one.process.sentinel for one in self.workers)]
        pipes = {one.pipe: one for one in self.workers}
        for source in wait([*sources, *pipes], timeout=CHECK_SECONDS):
            if source == self._wakeup_in:
                for number in os.read(self._wakeup_in, 1024):
                    if number != signal.SIGHUP:
                        return 0
                    self._signal_all(signal.SIGHUP)
            elif isinstance(source, Connection):
                self._read_message(source)
        for worker in [one for one in self.workers if not one.process.is_alive()]:
            status = self._remove_dead(worker)
            if status == BAD_INPUT and not self._was_ready:
                return BAD_INPUT  # it would fail the same way for ever
        return None

    def _read_message(self, pipe: Connection) -> None:
        try:
            word = pipe.recv_bytes()
        except (EOFError, OSError):
            return  # it is dying; its sentinel tells
        if word == b"ready":
            self._was_ready = True
        elif word == b"reload":
            self._signal_all(signal.SIGHUP, but=pipe)

    def _remove_dead(self, worker: Worker) -> int | None:
        from prometheus_client.multiprocess import mark_process_dead

        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        mark_process_dead(worker.process.pid)
        lived = time.monotonic() - worker.started
        self._pause = (
            FIRST_PAUSE_SECONDS
            if lived > STABLE_SECONDS
            else min(max(self._pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        )
        self._next_start = time.monotonic() + self._pause
        print(
            f"worker {worker.process.pid} ended with status {worker.process.exitcode}; "
            f"another starts in {self._pause:.1f} seconds",
            file=sys.stderr,
        )
        return worker.process.exitcode

    def _stop(self, status: int) -> int:
        """End all workers, the stubborn ones by force after their time to drain."""
        self.listener.close()  # else clients could still connect, to nobody, when the workers have
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self.settings.drain_seconds + KILL_AFTER_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            if worker.process.exitcode and not status:
                status = 1
        return status

    def _signal_all(self, number: int, *, but: Connection | None = None) -> None:
        for worker in self.workers:
            if worker.pipe is not but and worker.process.pid is not None:
                try:
                    os.kill(worker.process.pid, number)
                except ProcessLookupError:
                    continue


def modules_of_engine(settings: Settings) -> list[str]:
    """Return what a worker will import to run the model."""
    folder = settings.checkpoint_folder()
    is_exported = (folder / DEPLOYABLE).is_file()
    engine = settings.engine or ("onnxruntime" if is_exported else "torch")
    return ["timm"] if engine == "torch" else [engine]  # timm imports torch, and takes as long


def run_worker(
    settings: Settings, listener: socket.socket, pipe: Connection, is_replacement: bool
) -> None:
    """Serve in this process, which the supervisor started.

    A replacement takes no connections before its model is there, since the others can.
    """
    handle_signals_before_serving()
    from serving.server import serve

    _folder = MetricsFolder(Path(os.environ[FOLDER_VARIABLE]))  # held until this process ends
    sys.exit(serve(settings, listener, supervisor=pipe, loads_first=is_replacement))
