"""The compiled kernels of the LSTM and of attention, called with PyTorch's tensors.

The library for the processor at hand is loaded at run time: PyTorch says which, and its
ATEN_CPU_CAPABILITY asks for a lesser one.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from captioner.errors import CaptionerError, ToolError
from captioner.native import compilation
from captioner.native.compilation import AVX2, AVX512, LSTM, PLAIN, InstructionSet

_BY_CAPABILITY = {"AVX512": AVX512, "AVX2": AVX2}  # PyTorch's names


@cache
def instruction_set() -> InstructionSet:
    """Return the instruction set that this process uses."""
    known = _BY_CAPABILITY.get(torch.backends.cpu.get_cpu_capability(), PLAIN)
    return known if known in LSTM.instruction_sets else PLAIN


@cache
def load() -> ctypes.CDLL:
    """Return the library for the processor at hand, compiled first where that was not done yet.

    Raises:
        ToolError: it has to be compiled and there is no compiler, or the compiler failed.
    """
    return compilation.find_or_build(LSTM, instruction_set())


def why_missing() -> str | None:
    """Return why the library cannot be had on this machine, None where it can."""
    try:
        load()
    except CaptionerError as problem:
        return str(problem)
    return None


def function(name: str, dtype: torch.dtype) -> Any:
    """Return the compiled function for tensors of this dtype; its result, if any, is an int64."""
    found = load()[f"{name}_{str(dtype).removeprefix('torch.')}"]
    found.restype = ctypes.c_int64
    return found


@cache
def call_fields(name: str) -> tuple[str, ...]:
    """Return the fields, of 8 bytes each, of the struct that calls of this name take."""
    return compilation.call_fields(load(), name)


def pack_call(name: str, /, **values: Tensor | int | None) -> ctypes.Array[ctypes.c_int64]:
    """Return the struct for a call: numbers as they are, tensors by their address, None as null.

    Raises:
        ToolError: a field of the C++ struct has no value.
    """
    fields = call_fields(name)
    if missing := [field for field in fields if field not in values]:
        raise ToolError(
            f"the C++ struct of {name} has fields that Python gives no value: "
            f"{', '.join(missing)}; the sources in captioner/native have drifted apart"
        )
    found = (values[field] for field in fields)
    return (ctypes.c_int64 * len(fields))(
        *(one.data_ptr() if isinstance(one, Tensor) else int(one or 0) for one in found)
    )
