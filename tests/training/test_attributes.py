"""Runs with attributes: what finds them, captions without photographs, and going on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioner.attributes import Classifier, InstanceDetector
from captioner.checkpoint import load_checkpoint
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.errors import OptionError
from captioner.vocabulary import Vocabulary
from training.attributes import make_ready

TrainHere = Callable[..., int]


def captions_file(folder: Path) -> Path:
    rows = ["cocoid\tcaption", *(f"{n}\ta red circle above a black star" for n in range(30))]
    path = folder / "captions.tsv"
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize(
    "decoder",
    [
        ("soft_attention", "--attributes", "3", "--attribute-detector", "mil"),
        ("att_fcn", "--attributes", "3"),
        ("lstm_attributes",),
    ],
    ids=lambda words: words[0],
)
def test_a_run_with_captions_without_photographs(
    decoder: tuple[str, ...],
    tiny: list[str],
    train_here: TrainHere,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = ("--captions-without-photographs", str(captions_file(tmp_path)), "--alone-weight", "2")
    assert train_here(*tiny, "--decoder", *decoder, *alone, "--out", "run") == 0
    said = capsys.readouterr().out
    assert "of instance learning, mean average precision" in said
    assert "captions without photographs: 30 name an attribute, 0 are left out" in said
    facts = json.loads((tmp_path / "run" / "config.json").read_text())["facts"]
    assert 0 < facts["attributes_map_val"] <= 1
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    detector = checkpoint.decoder.attribute_detector
    assert isinstance(detector, InstanceDetector)
    assert detector.num_attributes == facts["attribute_words"]
    words = {checkpoint.vocabulary.words[word] for word in detector.word_ids.tolist()}
    assert {"circle", "star", "red"} <= words
    # 60 captions in batches of 8 times 5, beside 40 images in batches of 8.
    assert checkpoint.summary["step"] % (5 + 2) == 0


def test_captions_without_photographs_need_attributes(
    tiny: list[str], train_here: TrainHere, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ("--captions-without-photographs", str(captions_file(tmp_path)))
    assert train_here(*tiny, *alone, "--out", "run") == 2
    assert "give --attributes 5" in capsys.readouterr().err


def test_an_encoder_without_a_classifier_is_refused_in_one_line() -> None:
    encoder = create_encoder(EncoderConfig(name="resnet10t", weights="none"))
    vocabulary = Vocabulary.build([["a", "dog"]], min_count=1)
    with pytest.raises(OptionError, match="needs an encoder with a classifier of ImageNet's 1,000"):
        make_ready(
            Classifier(),
            1,
            encoder=encoder,
            vocabulary=vocabulary,
            images=([], []),
            sources=(),
            seed=0,
            announce=print,
        )


def test_the_classifier_is_read_from_the_encoders_weights(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    encoder = create_encoder(
        EncoderConfig(name="resnet10t", weights=str(tmp_path / "weights.safetensors"))
    )
    vocabulary = Vocabulary.build([["dog", "zebra"]], min_count=1)
    detector, said = Classifier(), []
    facts = make_ready(
        detector,
        2,
        encoder=encoder,
        vocabulary=vocabulary,
        images=([], []),
        sources=(),
        seed=0,
        announce=said.append,
    )
    assert facts == {"attribute_words": 2}
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = detector(encoder(pixels).grid)
        logits = whole(pixels).softmax(1)
    of_zebra = detector.word_ids.tolist().index(vocabulary.encode(["zebra"])[0])
    torch.testing.assert_close(found[:, of_zebra], logits[:, 340])
    # Dogs are the breeds from 151 to 268, but for a few wild relatives.
    assert (found[:, 1 - of_zebra] <= logits[:, 151:276].sum(1) + 1e-6).all()
