"""Tensors whose memory is recycled: a training step gets back the blocks of the step before.

Memory fresh from the system is cleared page by page at its first touch; for the hundreds of
megabytes that a long sequence leaves for its backward pass, that costs as much as a third of the
arithmetic. So blocks are kept, within two bounds: together with those in use they never exceed the
most that was ever in use at once, and a block that 64 requests passed by goes back. A block
belongs to its tensor and all views of it, until the last of them dies, in whichever thread.
"""

import ctypes
import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

LARGE_BYTES = 1 << 20  # smaller ones come as quickly from PyTorch
PAGE_BYTES = 2 << 20  # a huge page: 512 times fewer entries to look up and to map
PATIENCE = 64  # requests


class _Block:
    def __init__(self, size: int) -> None:
        try:
            self.mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            raise MemoryError(
                f"no {size:,} bytes left for an LSTM; make the batch smaller"
            ) from None
        with suppress(AttributeError, OSError):  # not everywhere
            self.mapping.madvise(mmap.MADV_HUGEPAGE)
        self.size = size
        self.idle_since = 0  # the number of a request


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.given_back: deque[_Block] = deque()  # without the lock, since tensors die anywhere
        self._idle: list[_Block] = []  # the longest idle first
        self._used_bytes = self._most_used_bytes = self._requests = 0

    def take(self, size: int) -> _Block:
        size = -(-size // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            self._requests += 1
            self._collect()
            while self._idle and self._requests - self._idle[0].idle_since > PATIENCE:
                del self._idle[0]
            fitting = [
                one for one in self._idle if size <= one.size <= size + size // 4 + PAGE_BYTES
            ]
            if fitting:
                block = min(fitting, key=lambda one: one.size)
                self._idle.remove(block)
            else:
                while self._idle and self._bytes() + size > self._most_used_bytes:
                    del self._idle[0]
                block = _Block(size)
            self._used_bytes += block.size
            self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)
            return block

    def _collect(self) -> None:
        while self.given_back:
            block = self.given_back.popleft()
            block.idle_since = self._requests
            self._used_bytes -= block.size
            self._idle.append(block)

    def _bytes(self) -> int:
        return self._used_bytes + sum(one.size for one in self._idle)


_pool = _Pool()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor of arbitrary content, float32 or float64."""
    count = math.prod(shape)
    if count * dtype.itemsize < LARGE_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    block = _pool.take(count * dtype.itemsize)
    loan = (ctypes.c_char * block.size).from_buffer(block.mapping)  # the tensor keeps it
    weakref.finalize(loan, _pool.given_back.append, block).atexit = False
    return torch.frombuffer(loan, dtype=dtype, count=count).view(shape)


def empty_like(tensor: Tensor) -> Tensor:
    return empty(tensor.shape, tensor.dtype)
