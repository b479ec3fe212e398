"""Cold starts: how long new processes take to load a model, and to caption a photograph."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from captioner.errors import ToolError
from captioner.progress import Progress
from inference.contestants import Contestant, environment

LOAD = """
import sys, time
start = time.perf_counter()
import captioner
captioner.load(sys.argv[1], **({"engine": sys.argv[2]} if len(sys.argv) > 2 else {}))
print(time.perf_counter() - start)
"""
NUMBERS, IMPORTS = "limit: import numpy, PIL", "limit: and onnxruntime"


def time_starts(
    folders: Mapping[Contestant, Path], image: Path, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Return by what is done, by contestant, the seconds of each round.

    Making the models has read all files, so none comes from the disk.
    """
    command: dict[str, list[float]] = {one.name: [] for one in folders}
    load: dict[str, list[float]] = {one.name: [] for one in folders}
    limits: dict[str, list[float]] = {NUMBERS: [], IMPORTS: []}
    with Progress(rounds, "cold starts", unit="rounds") as progress:
        for _ in range(rounds):
            for one, folder in folders.items():
                engine = [one.engine] if one.engine else []
                took = float(_run(one, ["-c", LOAD, str(folder.resolve()), *engine])[1])
                asked = ["--checkpoint", str(folder.resolve())]
                asked += ["--engine", one.engine] if one.engine else []
                words = ["-m", "captioner", "caption", str(image.resolve()), *asked]
                whole = _run(one, words)[0]
                load[one.name].append(took)
                command[one.name].append(whole)
            for name, modules in ((NUMBERS, "numpy, PIL.Image"), (IMPORTS, "onnxruntime")):
                seconds, _ = _run(next(iter(folders)), ["-c", f"import {modules}"])
                limits[name].append(seconds)
            progress.advance()
    return {"command": {**command, **limits}, "load": load}


def _run(one: Contestant, words: list[str]) -> tuple[float, str]:
    """Return the seconds of a Python process, from outside, and what it printed.

    Raises:
        ToolError: it failed; the message holds what it said.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", *words],
        env=environment(one.root),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise ToolError(f"{one.name} failed: {done.stderr.strip()[-300:]}")
    return seconds, done.stdout
