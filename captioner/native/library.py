"""The compiled C++ library: found where it was built ahead, or compiled on first use.

One C++ text is compiled once per instruction set, and the library for the processor at hand is
loaded at run time (PyTorch says which; its ATEN_CPU_CAPABILITY asks for a lesser one). It has a
plain C interface and links to nothing of PyTorch's but the OpenMP library, so a compilation takes
seconds and outlives a change of PyTorch or of the compiler.
"""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from torch import Tensor

from captioner.errors import CaptionerError, StorageError, ToolError
from captioner.files import write_atomically

SOURCES = Path(__file__).parent / "source"
BUILT_AHEAD = Path(__file__).parent / "built"
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class InstructionSet:
    name: str
    flags: tuple[str, ...]


PLAIN = InstructionSet("plain", ())
# By PyTorch's names for the processor at hand.
ON_X86 = {
    "AVX512": InstructionSet(
        "avx512", ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")
    ),
    "AVX2": InstructionSet("avx2", ("-mavx2", "-mfma")),
    "DEFAULT": PLAIN,
}


def instruction_sets() -> tuple[InstructionSet, ...]:
    """Return all that processors of this machine's family may have."""
    return tuple(ON_X86.values()) if platform.machine() in ("x86_64", "AMD64") else (PLAIN,)


@cache
def instruction_set() -> InstructionSet:
    """Return the instruction set that this process uses."""
    known = ON_X86.get(torch.backends.cpu.get_cpu_capability(), PLAIN)
    return known if known in instruction_sets() else PLAIN


@cache
def load() -> ctypes.CDLL:
    """Return the library for the processor at hand, compiled first where that was not done yet.

    Raises:
        ToolError: it has to be compiled and there is no compiler, or the compiler failed.
    """
    wanted = instruction_set()
    cached = user_cache()
    for folder in (BUILT_AHEAD, cached):
        if folder is not None and (found := _open(folder / file_name(wanted))):
            return found
    if cached is not None:
        # A file system without locks or room is passed by.
        with suppress(StorageError, OSError, NotImplementedError), FileLock(cached / ".lock"):
            found = _open(cached / file_name(wanted))  # another process may have been quicker
            return found or _opened(build(wanted, cached))
    with tempfile.TemporaryDirectory() as scratch:  # once open, its file is no longer needed
        return _opened(build(wanted, Path(scratch)))


def build(wanted: InstructionSet, folder: Path) -> Path:
    """Compile the library for one instruction set; return its file, whole or not at all.

    Raises:
        ToolError: there is no compiler, or it failed.
        StorageError: the folder cannot be written to.
    """
    path = folder / file_name(wanted)
    code = _compile(wanted)
    # A loader that meets half a library dies of it. The digest behind the code is no part of it.
    write_atomically(path, code + hashlib.sha256(code).digest())
    return path


def user_cache() -> Path | None:
    """Return the folder for what is compiled on first use, None where there is no safe one."""
    try:
        folder = user_cache_path("captioner") / "lstm"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
    except (OSError, RuntimeError):
        return None
    # Code is run from there: nobody else may be able to put it there.
    return folder if state.st_uid == os.geteuid() and not state.st_mode & 0o022 else None


def file_name(wanted: InstructionSet) -> str:
    """Return the library's name, which changes with whatever goes into it."""
    return f"hdetach_{wanted.name}_{platform.machine()}_{_fingerprint(wanted)}.so"


@cache
def _fingerprint(wanted: InstructionSet) -> str:
    digest = hashlib.sha256(repr((FLAGS, wanted.flags)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(wanted: InstructionSet) -> bytes:
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "library.so"
        sources = [str(source) for source in sorted(SOURCES.glob("*.cpp"))]
        command = [*compiler, *FLAGS, *wanted.flags, *sources, "-o", str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ToolError(
                f"{compiler[0]} did not finish within {TIMEOUT_SECONDS} s; compile ahead with "
                "python -m captioner.native.build"
            ) from None
        if done.returncode != 0 or not target.exists():
            said = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
            raise ToolError(
                f"{compiler[0]} could not compile the LSTM kernels ({said.strip()}); name another "
                "compiler in CXX"
            )
        return target.read_bytes()


def find_compiler() -> list[str]:
    """Return the command of a C++ compiler: what CXX names, else the first that is installed.

    Raises:
        ToolError: there is none.
    """
    named = os.environ.get("CXX", "").split()
    for command in [named] if named else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    met = f"CXX names {named[0]}, which is not there" if named else "no C++ compiler was found"
    raise ToolError(
        f"{met}; the LSTM kernels need g++ or clang++, or a library built elsewhere with "
        "python -m captioner.native.build"
    )


def _open(path: Path) -> ctypes.CDLL | None:
    """Return the library if its file is there, whole, and made for this system."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            return None
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _opened(path: Path) -> ctypes.CDLL:
    library = _open(path)
    if library is None:
        raise ToolError(f"{path} was compiled but cannot be loaded; name another compiler in CXX")
    return library


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
    fields = load()[f"{name}_fields"]
    fields.restype = ctypes.c_char_p
    return tuple(re.findall(r"(\w+)\s*[,;]", fields().decode()))


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
