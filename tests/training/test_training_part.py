"""What a decoder needs in training alone: its terms, its weights, and where these are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.checkpoint import load_checkpoint
from captioner.decoders import DECODERS, DecoderOutput, ShowTell
from captioner.files import file_hash
from training.run_folder import RunFolder, read_metrics

TrainHere = Callable[..., int]


class Guess(nn.Module):
    """Guesses the next word's number from the hidden state, and remembers its mean mistake."""

    mistake: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(hidden_size, 1)
        self.register_buffer("mistake", torch.zeros(()))


class Guessing(ShowTell):
    name = "guessing"

    def make_training_part(self) -> Guess:
        return Guess(self.options.hidden_size)

    def forward(self, *given: Any, **options: Any) -> DecoderOutput:
        output = super().forward(*given, **options)
        if not self.training or self.training_part is None:
            return output
        part = self.training_part
        assert isinstance(part, Guess)
        assert output.hidden is not None
        wrong = part.layer(output.hidden)[:, 0] - given[1].targets / self.vocabulary_size
        term = 0.5 * wrong.square().mean()
        with torch.no_grad():
            part.mistake.lerp_(wrong.mean(), 0.1)
        return output._replace(terms={"guess": term}, figures={"mistake": part.mistake.clone()})


@pytest.fixture(autouse=True)
def guessing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, "guessing", Guessing)


def test_terms_are_trained_and_logged_and_a_resumed_run_has_the_same_training_part(
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*tiny, "--decoder", "guessing", "--average-decay", "0.9", "--p", "0.4"]
    assert train_here(*words, "--out", "whole") == 0
    assert "decoder: 17 parameters more that only training needs" in capsys.readouterr().out
    assert train_here(*words, "--epochs", "1", "--out", "run") == 0
    assert train_here("--resume", "run", "--epochs", "2") == 0
    for name in ("last/training_part", "last/decoder", "last/optimiser", "best/decoder"):
        file = f"{name}.safetensors"
        assert file_hash(tmp_path / "run" / file) == file_hash(tmp_path / "whole" / file), name

    lines = [line for line in read_metrics(RunFolder(tmp_path / "run")) if "lr" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["loss"] == pytest.approx(line["cross_entropy"] + line["guess"], rel=1e-6)
    assert lines[1]["guess"] < lines[0]["guess"]
    kept = load_file(tmp_path / "run" / "last" / "training_part.safetensors")
    assert kept.keys() == {"layer.weight", "layer.bias", "mistake"}
    assert kept["mistake"] != 0


def test_no_checkpoint_that_captions_holds_a_training_part(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    words = [*tiny, "--decoder", "guessing", "--epochs", "1"]
    assert train_here(*words, "--out", "run") == 0
    for folder in ("best", "last"):
        weights = load_file(tmp_path / "run" / folder / "decoder.safetensors")
        assert (
            weights.keys()
            == ShowTell.captioning_state(load_checkpoint(tmp_path / "run" / folder).decoder).keys()
        )
        assert not any("training_part" in name for name in weights)
    files = {path.name for path in (tmp_path / "run" / "best").iterdir()}
    assert files == {
        *("encoder.safetensors", "decoder.safetensors"),
        *("model.json", "vocabulary.json", "hashes.json"),
    }


def test_terms_take_part_in_self_critical_training_with_cross_entropy(
    tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    assert train_here(*tiny, "--decoder", "guessing", "--epochs", "1", "--out", "run") == 0
    data = tiny[tiny.index("--data") :][:2]
    rest = ["--objective", "self_critical", "--start-from", "run/best", "--epochs", "1", *data]
    assert train_here(*rest, "--cross-entropy-weight", "0.5", "--out", "mixed") == 0
    assert train_here(*rest, "--out", "pure") == 0
    mixed, pure = (
        next(line for line in read_metrics(RunFolder(tmp_path / name)) if "lr" in line)
        for name in ("mixed", "pure")
    )
    assert {"cross_entropy", "guess", "mistake"} <= mixed.keys()
    assert not {"cross_entropy", "guess", "mistake"} & pure.keys()
