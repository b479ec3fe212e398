"""Averaging of checkpoints: the mean of their weights, and one line where there is none."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from captioner.checkpoint import load_checkpoint, save_checkpoint
from captioner.decoders import build_decoder, decoder_options
from captioner.encoder.config import EncoderConfig
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

_PATH = Path(__file__).parents[2] / "scripts" / "average_checkpoints.py"
_spec = importlib.util.spec_from_file_location("average_checkpoints", _PATH)
average_checkpoints = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(average_checkpoints)


def checkpoint(folder: Path, seed: int, words: str = "a dog runs", hidden: int = 6) -> Path:
    generator = torch.Generator().manual_seed(seed)
    config = EncoderConfig(name="resnet10t", weights="none", grid=2, image_size=64)
    encoder = TimmEncoder.create(config, generator)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *words.split()))
    decoder = build_decoder(
        "show_tell",
        decoder_options("show_tell", {"hidden_size": hidden, "embedding_size": 4}),
        vocabulary_size=len(vocabulary),
        feature_size=encoder.feature_size,
        generator=generator,
    )
    save_checkpoint(
        folder, encoder=encoder, decoder=decoder, vocabulary=vocabulary, summary={"step": seed}
    )
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [str(checkpoint(folder / f"{seed}", seed)) for seed in (1, 2)]


def test_every_weight_is_the_mean_of_the_checkpoints_weights(
    two: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "mean"
    assert average_checkpoints.main([*two, "--weights", "3", "1", "--out", str(out)]) == 0
    for name in ("encoder.safetensors", "decoder.safetensors"):
        first, second, mean = (load_file(Path(folder) / name) for folder in (*two, out))
        assert first.keys() == mean.keys()
        for key, weight in first.items():
            expected = 0.75 * weight + 0.25 * second[key]
            np.testing.assert_allclose(mean[key], expected, rtol=1e-5, atol=1e-7, err_msg=key)
    summary = load_checkpoint(out).summary
    assert summary["step"] == 1
    assert summary["average_of"] == {two[0]: 0.75, two[1]: 0.25}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"words": "a cat runs"}, "has another encoder, decoder or vocabulary than"),
        ({"hidden": 8}, "has another encoder, decoder or vocabulary than"),
        (None, "--weights has 1 for 2 checkpoints; give one for each"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(
    two: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    others: dict[str, object] | None,
    message: str,
) -> None:
    asked = [*two, "--weights", "1"]
    if others is not None:
        asked = [two[0], str(checkpoint(tmp_path / "other", 3, **others))]
    out = tmp_path / "mean"
    assert average_checkpoints.main([*asked, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert average_checkpoints.main([two[0], "--out", str(out)]) == 2
    assert average_checkpoints.main([*two, "--out", two[0]]) == 2
