"""The contestants: which code, folder and engine each runs, as processes that answer requests."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from captioner.errors import OptionError, ToolError
from captioner.native.decoding import find
from inference.models import INT8_DECODER, checkpoint, checkpoint_before, deployable
from inference.options import InferenceOptions

ROOT = Path(__file__).resolve().parents[2]
TEXTBOOK, LIMITS = "textbook", "limits"
ENGINES = {"onnxruntime": ("float32", INT8_DECODER, "int8"), "openvino": ("int8",)}


@dataclass(frozen=True)
class Contestant:
    """What is timed."""

    name: str
    root: Path = ROOT  # of the code
    engine: str | None = None
    precision: str | None = None  # of a deployable folder; else it is the checkpoint
    is_before: bool = False
    is_uncompiled: bool = False  # the graph of the decoder's step runs, also where it was compiled
    kind: str = "captioner"


def contestants(options: InferenceOptions) -> list[Contestant]:
    """Return all that can be timed here, the one that ratios are to first."""
    found = [
        Contestant(f"torch at {_commit(root)}", root=root.resolve(), is_before=True)
        for root in options.before
    ]
    found += [Contestant(TEXTBOOK, kind=TEXTBOOK), Contestant("torch", engine="torch")]
    for engine, precisions in ENGINES.items():
        if find_spec(engine):
            found += [
                Contestant(f"{engine} {precision}", engine=engine, precision=precision)
                for precision in precisions
            ]
    int8 = next((one for one in found if one.name == "onnxruntime int8"), None)
    if int8 is not None and find() is not None:
        found.append(replace(int8, name="onnxruntime int8, uncompiled", is_uncompiled=True))
    if unknown := set(options.contestants) - {one.name for one in found}:
        raise OptionError(
            f"--contestants has {', '.join(sorted(unknown))}; "
            f"here are {', '.join(one.name for one in found)}"
        )
    if options.contestants:
        found = [one for one in found if one.name in options.contestants]
    return found


def folder_of(one: Contestant, model: str, options: InferenceOptions) -> Path:
    """Return the folder of the model that a contestant loads, made where it is not there yet.

    Raises:
        ToolError: it cannot be exported.
    """
    made = checkpoint(options.work, model, options.weights)
    if one.is_before:
        return checkpoint_before(options.work, model)
    if one.precision is None or one.engine is None:
        return made
    return deployable(options.work, model, one.precision, one.engine)


def _commit(root: Path) -> str:
    if not (root / "captioner").is_dir():
        raise OptionError(f"--before {root} has no captioner/; give the root of a checkout")
    command = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or root.name


class Worker:
    """A process of one contestant with one model."""

    def __init__(self, process: "subprocess.Popen[str]", facts: dict[str, Any]) -> None:
        self._process = process
        self.facts = facts

    @classmethod
    def start(cls, one: Contestant, folder: Path, images: Sequence[Path], threads: int) -> Self:
        """Start the process and load the model.

        Raises:
            ToolError: the model cannot be loaded; the message says why.
        """
        command = [sys.executable, "-P", "-m", "inference.worker"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(one.root),
        )
        worker = cls(process, {})
        try:
            worker.facts = worker.ask(
                "load",
                kind=one.kind,
                folder=str(folder.resolve()),
                engine=one.engine,
                threads=threads,
                is_before=one.is_before,
                is_uncompiled=one.is_uncompiled,
                photographs=[str(path.resolve()) for path in images],
            )
        except ToolError:
            worker.close()
            raise
        return worker

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            ToolError: the process failed or ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ToolError(f"a contestant's process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which the code below `root` runs, with threads that sleep."""
    path = os.pathsep.join([str(root.resolve()), str(ROOT / "scripts")])
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path}
