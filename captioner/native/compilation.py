"""Compiled C++ libraries: found where they were built ahead, or compiled on first use.

One C++ text is compiled once per instruction set. Libraries have a plain C interface and link to
nothing of PyTorch's, so a compilation takes seconds and outlives a change of PyTorch or of the
compiler. Nothing here needs PyTorch.
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

from platformdirs import user_cache_path

from captioner.errors import StorageError, ToolError
from captioner.files import write_atomically

SOURCES = Path(__file__).parent / "source"
BUILT_AHEAD = Path(__file__).parent / "built"
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-Wno-psabi")
TIMEOUT_SECONDS = 300
IS_X86 = platform.machine() in ("x86_64", "AMD64")


@dataclass(frozen=True)
class InstructionSet:
    name: str
    flags: tuple[str, ...]


PLAIN = InstructionSet("plain", ())
AVX2 = InstructionSet("avx2", ("-mavx2", "-mfma"))
AVX512 = InstructionSet("avx512", ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"))


@dataclass(frozen=True)
class Library:
    """Sources that are compiled into one library."""

    name: str
    sources: str  # the files, a pattern below `SOURCES`
    flags: tuple[str, ...]
    instruction_sets: tuple[InstructionSet, ...]  # that processors of this machine's family have

    def file_name(self, wanted: InstructionSet) -> str:
        """Return the name of the file, which changes with whatever goes into it."""
        return f"{self.name}_{wanted.name}_{platform.machine()}_{_fingerprint(self, wanted)}.so"


LSTM = Library("hdetach", "*.cpp", ("-fopenmp",), (AVX512, AVX2, PLAIN) if IS_X86 else (PLAIN,))
# No OpenMP: its library is not where a captioner is deployed.
DECODING = Library("decoding", "decoding/*.cpp", ("-pthread",), (AVX2,) if IS_X86 else ())
LIBRARIES = (LSTM, DECODING)


def find(library: Library, wanted: InstructionSet) -> ctypes.CDLL | None:
    """Return the library if it was built before, into the package or for this user."""
    for folder in (BUILT_AHEAD, user_cache(make=False)):
        if folder is not None and (found := _open(folder / library.file_name(wanted))):
            return found
    return None


def find_or_build(library: Library, wanted: InstructionSet) -> ctypes.CDLL:
    """Return the library, compiled first where that was not done yet.

    Raises:
        ToolError: it has to be compiled and there is no compiler, or the compiler failed.
    """
    if found := find(library, wanted):
        return found
    from filelock import FileLock  # comes with what trains

    if (cached := user_cache()) is not None:
        # A file system without locks or room is passed by.
        with suppress(StorageError, OSError, NotImplementedError), FileLock(cached / ".lock"):
            # Another process may have been quicker.
            found = _open(cached / library.file_name(wanted))
            return found or _opened(build(library, wanted, cached))
    with tempfile.TemporaryDirectory() as scratch:  # once open, its file is no longer needed
        return _opened(build(library, wanted, Path(scratch)))


def build(library: Library, wanted: InstructionSet, folder: Path) -> Path:
    """Compile the library for one instruction set; return its file, whole or not at all.

    Raises:
        ToolError: there is no compiler, or it failed.
        StorageError: the folder cannot be written to.
    """
    path = folder / library.file_name(wanted)
    code = _compile(library, wanted)
    # A loader that meets half a library dies of it. The digest behind the code is no part of it.
    write_atomically(path, code + hashlib.sha256(code).digest())
    return path


def user_cache(*, make: bool = True) -> Path | None:
    """Return the folder for what is compiled on first use, None where there is no safe one."""
    try:
        folder = user_cache_path("captioner") / "native"
        if make:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
    except (OSError, RuntimeError):
        return None
    # Code is run from there: nobody else may be able to put it there.
    return folder if state.st_uid == os.geteuid() and not state.st_mode & 0o022 else None


@cache
def _fingerprint(library: Library, wanted: InstructionSet) -> str:
    digest = hashlib.sha256(repr((FLAGS, library.flags, wanted.flags)).encode())
    for source in sorted(one for one in SOURCES.rglob("*") if one.is_file()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(library: Library, wanted: InstructionSet) -> bytes:
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "library.so"
        sources = [str(source) for source in sorted(SOURCES.glob(library.sources))]
        command = [*compiler, *FLAGS, *library.flags, *wanted.flags, *sources, "-o", str(target)]
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
                f"{compiler[0]} could not compile the kernels ({said.strip()}); name another "
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
        f"{met}; the kernels need g++ or clang++, or a library built elsewhere with "
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


def call_fields(library: ctypes.CDLL, name: str) -> tuple[str, ...]:
    """Return the fields, of 8 bytes each, of the struct that calls of this name take."""
    fields = library[f"{name}_fields"]
    fields.restype = ctypes.c_char_p
    return tuple(re.findall(r"(\w+)\s*[,;]", fields().decode()))
