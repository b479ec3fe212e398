"""The benchmark of the service: the route by PyTorch says what the library says."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

import captioner
from captioner.checkpoint import save_checkpoint
from captioner.decoders import build_decoder
from captioner.decoders.soft_attention import SoftAttentionOptions
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.vocabulary import END, SPECIAL_TOKENS, Vocabulary

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize("attributes", [0, 3])
def test_the_route_by_torch_captions_as_the_library_does(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch, attributes: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    encoder = create_encoder(EncoderConfig(name="test_resnet", weights="none", image_size=64))
    options = SoftAttentionOptions(
        hidden_size=24,
        embedding_size=8,
        attention_size=12,
        feature_embedding_size=10,
        attributes=attributes,
    )
    decoder = build_decoder(
        "soft_attention",
        options,
        vocabulary_size=50,
        feature_size=encoder.feature_size,
        generator=generator,
    )
    if decoder.attribute_detector is not None:
        weight = torch.randn(9, encoder.feature_size, generator=generator)
        decoder.attribute_detector.take(weight, torch.full((9,), -4.0), list(range(5, 14)))
    with torch.no_grad():
        decoder.output.weight *= 8.0  # type: ignore[operator]
        for layer in (decoder.embed_features, decoder.initial_state, decoder.context_gates):
            layer.weight *= 8.0  # type: ignore[operator, union-attr]
        decoder.output.bias[END] = -50.0  # type: ignore[operator]
    words = Vocabulary((*SPECIAL_TOKENS, *(f"word{number}" for number in range(46))))
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, encoder=encoder, decoder=decoder, vocabulary=words, summary={})

    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setenv("CHECKPOINT", str(folder))
    monkeypatch.setenv("THREADS", "1")
    monkeypatch.delitem(sys.modules, "serving_bench.torch_route", raising=False)
    client = TestClient(importlib.import_module("serving_bench.torch_route").app)
    found = [
        client.post("/caption", files={"image": path.read_bytes()}).json()["caption"]
        for path in photographs
    ]
    expected = captioner.load(folder).caption(photographs, beam_size=3, max_length=20)
    assert found == [one.text for one in expected]
    assert len(set(found)) > 1
