"""Node with the modules of the page, and what captions in browsers are computed with."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.cli import main
from captioner.errors import ToolError
from serving.onnxruntime_web import PAGE, onnxruntime_web

Step = Callable[[dict[str, Any]], dict[str, Any]]


class Node:
    """A process that runs the page's modules, by a script beside this file."""

    def __init__(self, folder: Path, script: str) -> None:
        program = shutil.which("node")
        if program is None:
            pytest.skip("there is no node here; install Node.js")
        self.folder = folder
        self.process = subprocess.Popen(
            [program, str(Path(__file__).with_name(script)), str(PAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, kind: str, step: Step | None = None, **asked: Any) -> Any:
        """Return the value that a request of this kind has; `step` computes steps of a search."""
        self._say({"kind": kind, **asked})
        while "step" in (answer := self._hear()):
            assert step is not None
            self._say(step(answer["step"]))
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def picture(self, image: Image.Image) -> dict[str, Any]:
        """Return a picture as requests name it."""
        file = self.folder / "picture"
        file.write_bytes(np.asarray(image.convert("RGBA")).tobytes())
        return {"file": str(file), "width": image.width, "height": image.height}

    def _say(self, value: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "node ended"
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"), "answering.mjs")
    yield node
    node.close()


@pytest.fixture
def actor(tmp_path: Path) -> Iterator[Node]:
    """Acts on the page or its element, whose surroundings are stand-ins; returns what is seen."""
    actor = Node(tmp_path, "acting.mjs")
    yield actor
    actor.close()


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The folder of ONNX Runtime for browsers."""
    try:
        return onnxruntime_web(print)
    except ToolError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def deployable(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a captioner that was exported, a few thousand weights."""
    out = tmp_path_factory.mktemp("exported") / "tiny"
    assert main(["export", str(tiny_checkpoint), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def site(deployable: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its static page."""
    assert runtime.is_dir()
    out = tmp_path_factory.mktemp("host") / "some" / "folder"
    out.parent.mkdir()
    assert main(["export", str(deployable), "--web", str(out)]) == 0
    return out
