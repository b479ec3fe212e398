"""The engines, which run a captioner's model, and the choice among them.

To add one, write its file beside `torch_engine.py` and enter it in `ENGINES`. Importing this
imports none of the libraries that compute.
"""

from importlib import import_module
from pathlib import Path

from captioner.checkpoint_folders import DEPLOYABLE
from captioner.engines.interface import Candidates, Decoding, Engine, LoadedEngine
from captioner.errors import CheckpointError, OptionError
from captioner.extras import needing
from captioner.files import read_json
from captioner.options import is_count

# A class, or where it is found: an engine is imported when it is first asked for.
ENGINES: dict[str, type[Engine] | str] = {
    "torch": "captioner.engines.torch_engine:TorchEngine",
    "onnxruntime": "captioner.engines.onnx_engine:OnnxEngine",
    "openvino": "captioner.engines.openvino_engine:OpenvinoEngine",
}

EXTRAS = {"torch": "training", "openvino": "openvino"}  # what brings the library of an engine

__all__ = [
    "DEPLOYABLE",
    "ENGINES",
    "Candidates",
    "Decoding",
    "Engine",
    "LoadedEngine",
    "engine_class",
    "engine_for",
    "load_engine",
]


def engine_class(name: str) -> type[Engine]:
    """Return the engine of this name.

    Raises:
        OptionError: there is none.
        ToolError: what it needs is not installed.
    """
    if name not in ENGINES:
        raise OptionError(f"engine is {name!r}; choose one of {', '.join(ENGINES)}")
    found = ENGINES[name]
    if isinstance(found, str):
        module, _, member = found.partition(":")
        with needing(EXTRAS.get(name, "training"), f"engine {name}"):
            found = getattr(import_module(module), member)
    return found


def engine_for(folder: Path) -> str:
    """Return the name of the engine that runs the model in `folder` unless another is named.

    A deployable folder names the one that its encoder was made for.
    """
    if not (folder / DEPLOYABLE).is_file():
        return "torch"
    facts = read_json(folder / DEPLOYABLE, "the description of the captioner", CheckpointError)
    stated = facts.get("engine") if isinstance(facts, dict) else None
    # What names none is refused by the engine that reads the whole folder.
    return stated if isinstance(stated, str) and stated in ENGINES else "onnxruntime"


def load_engine(
    name: str | None, folder: Path, device: str = "cpu", threads: int | None = None
) -> LoadedEngine:
    """Return an engine for the model in `folder`, as `Engine.load` does.

    Without `name` the folder decides: PyTorch runs a checkpoint; a deployable one names its
    engine, mostly ONNX Runtime.
    `threads` is how many compute, without it as many as the library takes.

    Raises:
        OptionError: there is no such engine, or as `Engine.load`.
        ToolError: what it needs is not installed.
    """
    if threads is not None and not is_count(threads):
        raise OptionError(f"threads is {threads!r}; give a whole number of at least 1")
    return engine_class(name or engine_for(folder)).load(folder, device, threads)
