"""Which engine runs a model: the one that is named, else what the folder holds."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import captioner
from captioner import engines
from captioner.engines import ENGINES, Engine, engine_class, engine_for, load_engine
from captioner.errors import OptionError, ToolError


class Noted(Exception):  # noqa: N818 - no error
    """What an engine was asked to load."""


class Recording:
    @classmethod
    def load(cls, *given: Any) -> None:
        raise Noted(cls.__name__, *given)


def asked(call: Any) -> tuple[Any, ...]:
    with pytest.raises(Noted) as caught:
        call()
    return caught.value.args


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "onnxruntime"):
        monkeypatch.setitem(ENGINES, name, type(name, (Recording,), {}))


@pytest.mark.usefixtures("recording")
def test_the_folder_decides_unless_an_engine_is_named(tmp_path: Path) -> None:
    assert asked(lambda: load_engine(None, tmp_path)) == ("torch", tmp_path, "cpu", None)
    (tmp_path / "deployable.json").write_text("{}")
    assert asked(lambda: load_engine(None, tmp_path, "auto", 3)) == (
        *("onnxruntime", tmp_path, "auto", 3),
    )
    assert asked(lambda: load_engine("torch", tmp_path))[0] == "torch"
    assert asked(lambda: captioner.load(tmp_path, threads=2)) == (
        *("onnxruntime", tmp_path, "cpu", 2),
    )
    assert engine_for(tmp_path) == "onnxruntime"


@pytest.mark.usefixtures("recording")
def test_the_best_checkpoint_of_a_run_is_taken(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.json").write_text("{}")
    assert asked(lambda: captioner.load(tmp_path, engine="torch"))[1] == tmp_path / "best"


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^engine is 'abacus'; choose one of torch, onnxruntime"):
        load_engine("abacus", tmp_path)
    with pytest.raises(OptionError, match=r"^threads is 0; give a whole number of at l"):
        load_engine(None, tmp_path, threads=0)


def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine_of_nothing.py").write_text("import no_such_library_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ENGINES, "openvino", "engine_of_nothing:Engine")
    with pytest.raises(ToolError, match=r"engine openvino needs the extra `openvino`"):
        load_engine("openvino", tmp_path)


def test_torch_is_found_when_it_is_asked_for() -> None:
    found = engine_class("torch")
    assert issubclass(found, Engine)
    assert found.name == "torch"
    assert set(engines.EXTRAS) <= set(ENGINES)


def test_a_model_without_torch_is_loaded_and_captions_without_it(tmp_path: Path) -> None:
    (tmp_path / "deployable.json").write_text("{}")
    code = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
import captioner
from captioner.encoder.preprocessing import Preprocessing
from captioner.engines import ENGINES, Candidates, Engine, LoadedEngine
from captioner.features import Features
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

class Mean(Engine):
    name, grid, preprocessing = "onnxruntime", 1, Preprocessing(image_size=32)

    @classmethod
    def load(cls, folder, device, threads):
        words = (*SPECIAL_TOKENS, "a", "dark", "bright", "photograph")
        return LoadedEngine(cls(), Vocabulary(words), "", {})

    def encode(self, pixels):
        return Features(np.stack([one.mean() for one in pixels]).reshape(-1, 1, 1))

    def begin(self, features):
        return Saying(features.grid[:, 0, 0] > 127)

    def describe(self): ...

class Saying:
    attributes = None

    def __init__(self, is_bright):
        self.is_bright, self.said = is_bright, 0

    def step(self, words, parents, count, wanted):
        after = {1: 4, 4: 5, 5: 7, 6: 7, 7: 2}
        next_words = np.vectorize(after.get)(words)
        next_words += (words == 4) & self.is_bright[:, None]
        shape = (*words.shape, 1)
        asked = np.full((*words.shape, wanted.shape[1]), -9, np.float32)
        return Candidates(np.full(shape, -0.5, np.float32), next_words.reshape(shape), asked, None)

    def keep(self, images):
        self.is_bright = self.is_bright[images]

ENGINES["onnxruntime"] = Mean
model = captioner.load(sys.argv[1])
pictures = [Image.new("RGB", (40, 30), colour) for colour in ("white", "black")]
print([caption.text for caption in model.caption(pictures)])
print(sorted({"torch", "safetensors", "timm"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("['a bright photograph', 'a dark photograph']", "[]"),
    ]
