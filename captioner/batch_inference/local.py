"""The engine `local`: processes of this machine, each with a model of its own.

A process that dies, as where memory runs out, is replaced, and its shard is tried again. The
processes end with the program that started them, also where that was killed: at the end of a batch
they have nobody to tell.
"""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from captioner.batch_inference.advance import Advance
from captioner.batch_inference.shard_captioner import ShardCaptioner, ShardSettings
from captioner.batch_inference.sources import Shard
from captioner.errors import CaptionerError, ToolError

TRIES = 3  # of a shard
END_SECONDS = 10.0


class _Worker:
    """A process that captions one shard after the other."""

    def __init__(self, settings: ShardSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(settings, theirs), daemon=False, name="captioner"
        )
        # Ctrl-C is for the program, which ends this; a process inherits what is blocked.
        resource_tracker.ensure_running()  # or the first start would, and unblock it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.shard: Shard | None = None
        self.counted = 0  # photographs of the shard

    def give(self, shard: Shard | None) -> None:
        """Give it a shard, or with None let it end."""
        self.shard, self.counted = shard, 0
        with suppress(BrokenPipeError):  # that it is dead is seen where its answer is awaited
            self.connection.send(shard)

    def end(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(END_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def caption_here(
    settings: ShardSettings, shards: Iterator[Shard], workers: int
) -> Iterator[Advance]:
    """Caption shards by so many processes, and yield how that goes on.

    Raises:
        CaptionerError: as `ShardCaptioner` does.
        ToolError: a process died three times at one shard.
    """
    again: list[Shard] = []
    tries: dict[int, int] = {}
    running: list[_Worker] = []

    def next_shard() -> Shard | None:
        return again.pop() if again else next(shards, None)

    def employ(worker: _Worker | None) -> None:
        """Give a process, or a new one, what is next; where nothing is, it ends."""
        shard = next_shard()
        if worker is None:
            if shard is None:
                return
            worker = _Worker(settings)
            running.append(worker)
        worker.give(shard)

    try:
        for _ in range(workers):
            employ(None)
        while running:
            by_connection = {worker.connection: worker for worker in running}
            for ready in wait(list(by_connection)):
                assert isinstance(ready, Connection)
                worker = by_connection[ready]
                try:
                    message = ready.recv()
                except (EOFError, OSError):
                    running.remove(worker)
                    worker.end()
                    if worker.shard is not None:
                        yield Advance(-worker.counted)
                        again.append(_to_try_again(worker.shard, tries))
                        employ(None)
                    continue
                if isinstance(message, CaptionerError):
                    raise message
                if isinstance(message, int):
                    worker.counted += message
                    yield Advance(message)
                else:
                    yield Advance(0, message)
                    employ(worker)
    finally:
        for worker in running:
            worker.end()


def _to_try_again(shard: Shard, tries: dict[int, int]) -> Shard:
    tries[shard.number] = tries.get(shard.number, 1) + 1
    if tries[shard.number] > TRIES:
        raise ToolError(
            f"{TRIES} processes died at shard {shard.number} of {shard.file}; perhaps memory ran "
            "out: give fewer --workers or a smaller --batch-size, and go on with --resume"
        )
    return shard


def _work(settings: ShardSettings, connection: Connection) -> None:
    """Caption the shards that come through a connection; what a process does."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the program is gone
        try:
            with ShardCaptioner(settings) as captioner:
                while (shard := connection.recv()) is not None:
                    connection.send(captioner.caption(shard, connection.send))
        except CaptionerError as problem:
            connection.send(problem)
