"""What the service's model says of a photograph does not depend on its company."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import captioner
from captioner.captioner import Caption
from captioner.checkpoint import save_checkpoint
from captioner.cli import main
from captioner.decoders import DECODERS, build_decoder, decoder_options
from captioner.encoder.config import EncoderConfig
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.errors import CheckpointError, OptionError
from captioner.search_config import SearchConfig
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary
from serving.model import LoadedModel, captions_of_batch, load_model
from tests.decoders.attribute_words import give_attributes

WORDS = tuple(f"w{number}" for number in range(299))


def save(folder: Path, decoder: str, image_mode: str = "crop") -> Path:
    """Write a checkpoint whose layers have odd sizes."""
    generator = torch.Generator().manual_seed(5)
    config = EncoderConfig(
        name="test_resnet", weights="none", image_size=64, grid=3, image_mode=image_mode
    )
    encoder = TimmEncoder.create(config, generator)
    sizes = {
        "hidden_size": 131,
        "embedding_size": 67,
        "attention_size": 53,
        "feature_embedding_size": 97,
    }
    built = give_attributes(
        build_decoder(
            decoder,
            decoder_options(decoder, sizes),
            vocabulary_size=len(SPECIAL_TOKENS) + len(WORDS),
            feature_size=encoder.feature_size,
            generator=generator,
        ),
        words=200,
    )
    with torch.no_grad():
        built.output.weight.mul_(6)
    save_checkpoint(
        folder,
        encoder=encoder,
        decoder=built,
        vocabulary=Vocabulary((*SPECIAL_TOKENS, *WORDS)),
        summary={},
    )
    return folder


@pytest.fixture(scope="module", params=sorted(DECODERS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp(request.param) / "shapes" / "best"
    return load_model(save(folder, request.param), "cpu")


def noise(count: int, side: int = 64) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    colours = np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(48, 64), (64, 48), (300, 280), (1200, 900)]):
        paths.append(tmp_path / f"{number}.jpg")
        small = Image.fromarray(colours.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def assert_same(captions: list[Caption], expected: list[Caption]) -> None:
    """The same words, and figures that differ in rounding alone."""
    assert [one.tokens for one in captions] == [one.tokens for one in expected]
    for one, other in zip(captions, expected, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=1e-5)
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert (one.attention is None) == (other.attention is None)
        if one.attention is not None:
            np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)


OPTIONS = [
    SearchConfig(beam_size=beams, num_captions=number, max_length=length)
    for beams, number, length in (
        (3, 1, 20), (1, 1, 20), (10, 10, 12), (3, 3, 20), (2, 1, 5), (3, 1, 20), (5, 2, 1),
    )
]  # fmt: skip


def test_captions_are_the_same_alone_and_in_every_batch(model: LoadedModel):
    pixels = noise(len(OPTIONS))
    alone = [
        captions_of_batch(model, [image], [options])[0][0]
        for image, options in zip(pixels, OPTIONS, strict=True)
    ]
    assert len({one[0].text for one in alone}) > 3
    orders = [list(range(len(OPTIONS))), [6, 2, 0], [0, 5], [3, 1, 4, 0], [2] * 8, [5, 4, 3, 2, 1]]
    for order in orders:
        together, encoding, searching = captions_of_batch(
            model, [pixels[at] for at in order], [OPTIONS[at] for at in order]
        )
        for at, captions in zip(order, together, strict=True):
            assert_same(captions, alone[at])
        assert min(encoding, searching) > 0


def test_pictures_of_other_shapes_may_share_a_batch(tmp_path: Path):
    model = load_model(save(tmp_path / "best", "soft_attention", "whole"), "cpu")
    pixels = [*noise(2, 64), *noise(2, 32)]
    options = [SearchConfig()] * 4
    together = captions_of_batch(model, pixels, options)[0]
    for image, captions in zip(pixels, together, strict=True):
        assert_same(captions, captions_of_batch(model, [image], options[:1])[0][0])


def test_they_are_those_of_the_library_and_the_command_line(
    model: LoadedModel, photographs: list[Path], capsys: pytest.CaptureFixture[str]
):
    read = model.captioner.preprocessing.read
    options = SearchConfig(num_captions=2)
    ours = captions_of_batch(model, [read(path) for path in photographs], [options] * 4)[0]
    library = captioner.load(model.folder).captions(photographs, num_captions=2, batch_size=3)
    for captions, expected in zip(ours, library, strict=True):
        assert_same(captions, expected)
    names = [str(path) for path in photographs]
    assert main(["caption", *names, "--checkpoint", str(model.folder), "--json",
                 "--num-captions", "2", "--device", "cpu"]) == 0  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    for entry, captions in zip(printed, ours, strict=True):
        log_probs = [one.log_prob for one in captions]
        assert [one["log_prob"] for one in entry["captions"]] == pytest.approx(log_probs, rel=1e-5)
        assert [one["text"] for one in entry["captions"]] == [one.text for one in captions]


def test_a_model_has_the_name_of_its_run_and_the_hash_of_its_contents(tmp_path: Path):
    folder = save(tmp_path / "night" / "best", "show_tell")
    first, again = load_model(folder), load_model(folder.parent)
    assert (first.name, again.name) == ("night", "night")
    assert first.hash == again.hash
    assert len(first.hash) == 64
    assert first.folder == folder
    assert first.seconds_per_image > 0
    shutil.copytree(folder, tmp_path / "copied")
    assert load_model(tmp_path / "copied").name == "copied"
    assert load_model(tmp_path / "copied").hash == first.hash
    assert load_model(save(tmp_path / "other" / "best", "soft_attention")).hash != first.hash


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path):
    folder = save(tmp_path / "night" / "best", "show_tell")
    whole = (folder / "decoder.safetensors").read_bytes()
    (folder / "decoder.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors is truncated"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_model(tmp_path)
    with pytest.raises(OptionError, match="device is 'abacus'"):
        load_model(folder, "abacus")


def test_a_model_that_writes_no_numbers_is_refused(tmp_path: Path):
    made = load_model(save(tmp_path / "sound" / "best", "show_tell")).captioner
    with torch.no_grad():
        made.engine.decoder.output.weight.fill_(float("nan"))  # type: ignore[attr-defined]
    save_checkpoint(
        tmp_path / "bad",
        encoder=made.engine.encoder,
        decoder=made.engine.decoder,
        vocabulary=made.vocabulary,
        summary={},
    )
    with pytest.raises(CheckpointError, match=r"cannot caption a picture.*not numbers"):
        load_model(tmp_path / "bad")
