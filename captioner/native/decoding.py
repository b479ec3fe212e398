"""The compiled kernels of decoding, called with numpy's arrays: no PyTorch is needed.

They are used where they were built, `python -m captioner.native.build`, for a processor of x86 with
AVX2; elsewhere the exported graphs run. Nothing is compiled on the way to a caption.
"""

import ctypes
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from captioner.cores import available_cores
from captioner.native import compilation
from captioner.native.compilation import AVX2, DECODING

_PROCESSOR = Path("/proc/cpuinfo")
_ALIGNMENT = 64  # bytes: a line of the cache
MOST_THREADS = 8  # a step has ten parts for the words of Flickr8k


@cache
def find() -> ctypes.CDLL | None:
    """Return the library, None where it was not built or the processor cannot run it."""
    if AVX2 not in DECODING.instruction_sets or not {"avx2", "fma"} <= _abilities():
        return None
    return compilation.find(DECODING, AVX2)


def _abilities() -> set[str]:
    """Return what the first processor can do, by the names of Linux."""
    try:
        lines = _PROCESSOR.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def function(name: str, result: Any = None) -> Any:
    """Return a function of the library, which was found."""
    library = find()
    assert library is not None
    found = library[name]
    found.restype = result
    return found


def count(name: str, of: int) -> int:
    """Return what a function of the library makes of a number."""
    result: int = function(name, ctypes.c_int64)(ctypes.c_int64(of))
    return result


def address(array: np.ndarray) -> ctypes.c_void_p:
    """Return where an array begins, whose numbers lie one after the other."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array as `numpy.empty` does, from the beginning of a line of the cache."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def arranged(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix int8 [inputs, outputs] as products read it, and the sums of its columns."""
    inputs, outputs = matrix.shape
    columns = count("matrix_columns", outputs)
    weights, sums = empty((columns, inputs), np.int8), empty((columns,), np.int32)
    function("arrange_matrix")(
        address(np.ascontiguousarray(matrix)),
        ctypes.c_int64(inputs),
        ctypes.c_int64(outputs),
        address(weights),
        address(sums),
    )
    return weights, sums


class Team:
    """Threads that work on one step together; they end with the last reference to this."""

    def __init__(self, threads: int) -> None:
        """Start threads, none more than there are cores or than have a part in a step."""
        self.threads = max(1, min(threads, available_cores(), MOST_THREADS))
        new = function("new_team", ctypes.c_void_p)
        found = new(ctypes.c_int64(self.threads))
        if not found:  # the system gives none: the caller computes alone
            self.threads = 1
            found = new(ctypes.c_int64(1))
        self.handle = ctypes.c_void_p(found)
        # Not when the process ends: another thread may still be in the midst of a step.
        finalize(self, function("delete_team"), self.handle).atexit = False


class Call:
    """The struct of a call, whose fields keep their values from one call to the next."""

    def __init__(self, name: str) -> None:
        library = find()
        assert library is not None
        fields = compilation.call_fields(library, name)
        self._places = {field: place for place, field in enumerate(fields)}
        self._values = (ctypes.c_int64 * len(fields))()
        self._arrays: dict[str, np.ndarray] = {}  # so that they live as long as their address
        self._run = function(name, ctypes.c_int64)

    def copy(self) -> "Call":
        other = copy(self)
        other._values = type(self._values)(*self._values)
        other._arrays = dict(self._arrays)
        return other

    def point(self, **arrays: np.ndarray) -> None:
        """Set fields to the addresses of arrays."""
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            self._arrays[name] = array
            self._values[self._places[name]] = array.ctypes.data

    def set(self, **numbers: int) -> None:
        """Set fields to numbers."""
        for name, number in numbers.items():
            self._values[self._places[name]] = number

    def run(self, team: Team) -> int:
        """Call the function of the struct's name, and return what it returns."""
        result: int = self._run(self._values, team.handle)
        return result
