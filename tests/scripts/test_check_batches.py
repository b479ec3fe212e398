"""The check of mixed batches: it finds an engine whose images change each other's captions."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.captioner import Captioner
from captioner.data.karpathy import CaptionDataset
from captioner.encoder.preprocessing import Preprocessing
from captioner.engines.interface import Candidates, Decoding, Engine
from captioner.features import Features
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WORDS = Vocabulary((*SPECIAL_TOKENS, *(f"word{number}" for number in range(20))))


class Bigrams(Engine):
    """Words follow from the last word and the mean colour, and with `coupling` from the batch."""

    name = "bigrams"
    grid = 1

    def __init__(self, coupling: float) -> None:
        self.preprocessing = Preprocessing(image_size=8)
        self.coupling = coupling

    @classmethod
    def load(cls, folder: Path, device: str, threads: int | None) -> Any:
        raise NotImplementedError

    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        return Features(np.array([[[one.mean()]] for one in pixels], np.float32))  # type: ignore[arg-type]

    def begin(self, features: Features) -> Decoding:
        return BigramDecoding(np.asarray(features.grid)[:, 0, 0], self.coupling)

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}


class BigramDecoding:
    attributes = None

    def __init__(self, means: np.ndarray, coupling: float) -> None:
        self.means, self.coupling = means, coupling

    def step(
        self,
        words: np.ndarray,
        parents: np.ndarray,  # noqa: ARG002
        count: int,
        wanted: np.ndarray,
    ) -> Candidates:
        disturbance = self.coupling * (len(self.means) - 1)
        phase = self.means[:, None, None] + words[:, :, None] + disturbance
        logits = np.sin(phase * np.arange(1, len(WORDS) + 1) * 1.7)
        logits[..., [0, 1, 3]] = -np.inf
        log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        order = np.argsort(-log_probs, axis=2, kind="stable")[..., :count]
        best = np.take_along_axis(log_probs, order, axis=2).astype(np.float32)
        asked = np.zeros((*words.shape, wanted.shape[1]), np.float32)
        return Candidates(best, order, asked, None)

    def keep(self, images: np.ndarray) -> None:
        self.means = self.means[images]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, photographs: list[Path]) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import check_batches

    images = []
    for number in range(24):
        path = photographs[0].with_name(f"plain_{number}.png")
        Image.new("RGB", (8, 8), (7 * number, 5, 250 - 9 * number)).save(path)
        images.append(type("One", (), {"path": path}))

    class Data:
        def split(self, _: str) -> list[Any]:
            return images

    def opened(*_: Any, **__: Any) -> CaptionDataset:
        return Data()  # type: ignore[return-value]

    monkeypatch.setattr(check_batches, "open_dataset", opened)
    return check_batches


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, coupling: float, out: Path) -> int:
    captioner = Captioner(Bigrams(coupling), WORDS)
    monkeypatch.setattr(script, "load", lambda *_, **__: captioner)
    return script.main(["--model", "m", "--data", "d", "--json", str(out)])


def test_images_that_do_not_meet_give_equal_captions(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(script, monkeypatch, 0.0, tmp_path / "found.json") == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["photographs"], found["captions"], found["different"]) == (24, 48, 0)
    assert found["greatest_rounding"] == 0.0


def test_images_that_disturb_each_other_are_found(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(script, monkeypatch, 0.2, tmp_path / "found.json") == script.DIFFERENT
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["no_near_tie"] > 5
    assert max(one["gap"] for one in found["differences"]) > 0.01
    assert "alone:" in capsys.readouterr().out


def test_a_gap_is_that_of_the_first_words_kept_otherwise(script: ModuleType) -> None:
    totals = [{(0, 5): -1.0, (0, 6): -1.5}, {(0, 7): -2.0, (1, 8): -2.0004, (1, 9): -3.0}]
    alone, beside = (object.__new__(script.Followed) for _ in range(2))
    alone.kept, alone.totals = [[(0, 5), (0, 6)], [(0, 7), (1, 9)]], totals
    beside.kept, beside.totals = [[(0, 5), (0, 6)], [(1, 8), (1, 9)]], totals
    assert script.gap_between(alone, beside) == pytest.approx(0.0004)
    beside.kept = alone.kept
    assert script.gap_between(alone, beside) is None


def test_bad_options_are_one_line_and_status_2(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--model", str(tmp_path), "--data", "x", "--orders", "0"]) == 2
    assert "--orders is 0" in capsys.readouterr().err
