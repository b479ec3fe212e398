"""The processes of one training, as `torchrun` starts them, and what they tell each other.

Every process ("rank") holds the whole model and a part of each batch. After its backward pass the
gradients of all are added up, so each takes the same step, and only the first one writes files. One
process alone is the same code with `size` 1. An error in any of them ends all, and is told once.

Gradients are added up here rather than by DistributedDataParallel. It averages the processes'
gradients, where a mean over all words needs their sum (a process with more words counts more); it
wants the same parameters used in each process, where a part of a batch may be empty; and it wraps
one forward pass, where an objective runs several. What it gains is that communication runs beside
the backward pass: a few milliseconds of a step, see `docs/training.md`.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from captioner.devices import choose_device
from captioner.errors import CaptionerError, OptionError
from captioner.processes import Processes
from captioner.program import BAD_INPUT, INTERRUPTED
from captioner.text import in_one_line
from training.meeting import End, Meeting, in_touch

Value = TypeVar("Value")

# The first process scores captions and writes features' journals while the others wait; a process
# that ends closes its connections, which the others notice at once.
_PATIENCE = timedelta(days=1)
_UNEXPECTED = 1  # Python's exit status after a traceback


class Ranks(Processes):
    """The processes of a training; with `size` 1 each method gives back what it was given.

    Methods but `device` are for all processes together: each calls them in the same order.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        meeting: Meeting | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self._local_rank = local_rank  # on this machine
        self._meeting = meeting
        self._gpus: Any = None  # the processes, as NCCL connects them
        self._is_whole = True

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator[Self]:
        """Find the other processes by the variables that torchrun sets; without them be alone.

        Within the block, what any process but the first says to standard output is not heard.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            yield cls()
            return
        with in_touch():
            rank, meeting = Meeting.found()
            meeting.wait_for_all(rank, size)
            dist.init_process_group(
                "gloo", store=meeting.store, rank=rank, world_size=size, timeout=_PATIENCE
            )
        ranks = cls(rank, size, int(os.environ.get("LOCAL_RANK", "0")), meeting)
        if rank == 0:
            yield ranks
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield ranks
        if ranks._is_whole:
            dist.destroy_process_group()

    def device(self, name: str) -> torch.device:
        """Return the device of this name, of several GPUs the one of this process.

        Raises:
            OptionError: there is no such device here, or not enough for the processes.
        """
        if self.size == 1:
            return choose_device(name)
        if name in ("auto", "cuda") and torch.cuda.is_available():
            count = torch.cuda.device_count()
            if self._local_rank >= count:
                raise OptionError(
                    f"{socket.gethostname()} has {count} GPUs and process {self._local_rank + 1}; "
                    f"give --nproc-per-node {count}, or --device cpu"
                )
            device = torch.device("cuda", self._local_rank)
            torch.cuda.set_device(device)
            return device
        device = choose_device(name)
        if device.type != "cpu":
            raise OptionError(
                f"--device is {name} for {self.size} processes; leave it out, and each takes the "
                "GPU of its number"
            )
        return device

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with in_touch():
            dist.all_gather_object(values, value)
        return values

    def share(self, value: Value) -> Value:
        """Return the value of the first process; the others' are not looked at."""
        if self.size == 1:
            return value
        values: list[Any] = [value if self.is_first else None]
        with in_touch():
            dist.broadcast_object_list(values)
        shared: Value = values[0]
        return shared

    def gather_counts(self, *counts: int) -> list[list[int]]:
        """Return the whole numbers of all processes: a row for each."""
        if self.size == 1:
            return [list(counts)]
        own = torch.tensor(counts)
        rows = torch.empty(self.size * len(counts), dtype=own.dtype)
        with in_touch():
            dist.all_gather_into_tensor(rows, own)
        found: list[list[int]] = rows.view(self.size, -1).tolist()
        return found

    def most(self, count: int) -> int:
        """Return the greatest of all processes' numbers."""
        return max(row[0] for row in self.gather_counts(count))

    def follow(self) -> None:
        """Take part in what the others ask by `most`, until all of them have given 0.

        So a process whose part of a batch is empty keeps in step with those that compute a loss,
        whatever they agree on meanwhile.
        """
        while self.most(0):
            pass

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first process go through the block before the others."""
        if not self.is_first:
            self.share(None)
        yield
        if self.is_first:
            self.share(None)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give each parameter the sum of its gradients in all processes.

        One that has none anywhere keeps none.
        """
        if self.size == 1:
            return
        has_gradient = torch.tensor([one.grad is not None for one in parameters]).to(torch.uint8)
        with in_touch():
            dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
        moved = [one for one, has in zip(parameters, has_gradient.tolist(), strict=True) if has]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._add([one.grad for one in moved if one.grad is not None])

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of numbers by their means over all processes."""
        if self.size == 1 or not tensors:
            return
        self._add(tensors)
        for tensor in tensors:
            tensor.div_(self.size)

    @torch.no_grad()
    def spread(self, module: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.size == 1:
            return
        with in_touch():
            for value in module.state_dict().values():
                here = value.cpu().contiguous()
                dist.broadcast(here, 0)
                value.copy_(here)

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Let the first error of any process be told, and end the others without a word.

        torchrun finds the message in the error file it asks for, and shows it in its report.
        """
        try:
            yield
        except BaseException as problem:
            if self._meeting is None:
                raise
            self._is_whole = False
            message = in_one_line(problem)
            if not isinstance(problem, CaptionerError):
                message = f"{type(problem).__name__} {message}"
            first = self._meeting.first_end(End(self.rank, _status(problem), message))
            if first.rank == self.rank:
                raise
            raise SystemExit(first.status) from None

    @torch.no_grad()
    def _add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, all of them at once."""
        if not tensors:
            return
        flat = torch.cat([one.detach().flatten() for one in tensors])
        group = None
        if flat.is_cuda:
            if self._gpus is None:
                self._gpus = dist.new_group(backend="nccl")
            group = self._gpus
        with in_touch():
            dist.all_reduce(flat, group=group)
        # Copied, for each keeps its own order in memory.
        parts = flat.split([one.numel() for one in tensors])
        torch._foreach_copy_(
            [one.detach() for one in tensors],
            [part.view(one.shape) for part, one in zip(parts, tensors, strict=True)],
        )


ALONE = Ranks()


class Amounts(NamedTuple):
    """What a batch, or a part of it, holds."""

    images: int = 0
    captions: int = 0
    words: int = 0
    references: int = 0  # all captions of its images, trained on or not


class Portion(NamedTuple):
    """How much of a batch of all processes this one holds.

    The processes' losses are added up with their shares of the words as weights. What is no mean
    over words but over images, captions or references is multiplied by `per_image`, `per_caption`
    or `per_reference` before, so that the sum is the mean over all of them.
    """

    images_before: int = 0  # those of the processes before this one
    images: int | None = None  # of the whole batch; None: as many as there are here
    words: float = 1.0
    per_image: float = 1.0
    per_caption: float = 1.0
    per_reference: float = 1.0

    @classmethod
    def of(cls, ranks: Ranks, own: Amounts) -> tuple[Self, list[Amounts]]:
        """Return the portion of what this process holds, and what each of them holds."""
        held = [Amounts(*row) for row in ranks.gather_counts(*own)]
        whole = Amounts(*map(sum, zip(*held, strict=True)))
        before = sum(one.images for one in held[: ranks.rank])
        if not own.words:
            return cls(before, whole.images, words=0.0), held
        images, captions, words, references = (
            mine / of_all for mine, of_all in zip(own, whole, strict=True)
        )
        per = images / words, captions / words, references / words
        return cls(before, whole.images, words, *per), held


WHOLE = Portion()  # of a batch that one process holds


def _status(problem: BaseException) -> int:
    """Return the exit status that an error ends a program of this project with."""
    if isinstance(problem, SystemExit):
        return problem.code if isinstance(problem.code, int) else int(problem.code is not None)
    if isinstance(problem, CaptionerError):
        return BAD_INPUT
    return INTERRUPTED if isinstance(problem, KeyboardInterrupt) else _UNEXPECTED
