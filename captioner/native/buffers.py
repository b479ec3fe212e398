"""Recycled memory for tensors: a training step gets the blocks of the step before.

The system clears fresh memory page by page at its first use. For the hundreds of megabytes that a
long sequence keeps for its backward pass, that costs up to a third of the arithmetic. The pool
itself is in source/buffers.cpp. A block belongs to its tensor and all views of it, and returns to
the pool when the last of them dies, in whichever thread.
"""

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captioner.native.library import load

LARGE_BYTES = 1 << 20  # smaller ones come as quickly from PyTorch


class _Block:
    """One block of the pool, in the form in which NumPy takes memory from others."""

    def __init__(self, count: int, dtype: np.dtype) -> None:
        library = load()
        library.hdetach_take.restype = ctypes.c_void_p
        self.address = library.hdetach_take(ctypes.c_size_t(count * dtype.itemsize))
        if not self.address:
            size = count * dtype.itemsize
            raise MemoryError(f"no {size:,} bytes left for an LSTM; make the batch smaller")
        self._give = library.hdetach_give  # kept: modules may be gone when the last tensor dies
        self._pointer = ctypes.c_void_p(self.address)
        self.__array_interface__ = {
            "data": (self.address, False),
            "shape": (count,),
            "typestr": dtype.str,
            "version": 3,
        }

    def __del__(self) -> None:
        if getattr(self, "address", None):
            self._give(self._pointer)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor of arbitrary content, float32 or float64."""
    count = math.prod(shape)
    if count * dtype.itemsize < LARGE_BYTES:
        return torch.empty(shape, dtype=dtype)
    block = _Block(count, np.dtype(np.float32 if dtype == torch.float32 else np.float64))
    return torch.from_numpy(np.asarray(block)).view(shape)


def empty_like(tensor: Tensor) -> Tensor:
    return empty(tensor.shape, tensor.dtype)


def release() -> None:
    """Return all idle blocks to the system."""
    load().hdetach_release()


def idle_bytes() -> int:
    """Return how much memory waits for the next call."""
    count = load().hdetach_idle
    count.restype = ctypes.c_size_t
    return int(count())
