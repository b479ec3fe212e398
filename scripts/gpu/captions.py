"""Captions a second on a GPU: beam search of a soft attention captioner with random weights.

The size is that of COCO: 10,000 words, 49 positions of 2,048 features, 512 units, beam 3. The end
token is never written, so every caption has the most words there may be; real ones have half.
Features are given, so the encoder's time is not in it.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch

from captioner.decoders import build_decoder
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.engines.torch_engine import TorchEngine
from captioner.features import Features
from captioner.search_config import SearchConfig
from captioner.vocabulary import END

_WORDS, _POSITIONS, _FEATURES = 10_000, 49, 2048
_NEVER = -1e9  # a bias of the end token


def captions_per_second(
    device: torch.device, batches: tuple[int, ...], rounds: int, *, is_tiny: bool
) -> Iterator[dict[str, Any]]:
    """Yield captions a second for batches of so many images."""
    generator = torch.Generator().manual_seed(0)
    words, features = (50, 16) if is_tiny else (_WORDS, _FEATURES)
    encoder = create_encoder(EncoderConfig(name="test_resnet", weights="none"), generator)
    decoder = build_decoder(
        "soft_attention", vocabulary_size=words, feature_size=features, generator=generator
    )
    with torch.no_grad():
        dict(decoder.named_parameters())["output.bias"][END] = _NEVER
    engine = TorchEngine(encoder, decoder, device)
    config = SearchConfig(beam_size=3, max_length=3 if is_tiny else 20)
    for batch in batches:
        grid = torch.randn(batch, _POSITIONS, features, generator=generator).to(device)
        engine.search(Features(grid), config)  # warms up
        started = time.perf_counter()
        for _ in range(rounds):
            engine.search(Features(grid), config)
        seconds = (time.perf_counter() - started) / rounds
        yield {"images": batch, "captions_per_second": batch / seconds, "seconds": seconds}
