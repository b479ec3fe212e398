"""A captioner of random weights that takes next to no time, for measurements of all else."""

from pathlib import Path

import torch

from captioner.checkpoint import save_checkpoint
from captioner.decoders import build_decoder, decoder_options
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

WORDS = ("a", "dog", "cat", "runs", "sits", "grass")


def tiny_model(folder: Path) -> Path:
    """Write an exported captioner below `folder`, and return where it is."""
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *WORDS))
    generator = torch.Generator().manual_seed(0)
    config = EncoderConfig(name="test_resnet", weights="none", image_size=32)
    encoder = create_encoder(config, generator)
    sizes = {"hidden_size": 16, "embedding_size": 8, "attention_size": 8}
    decoder = build_decoder(
        "soft_attention",
        decoder_options("soft_attention", sizes),
        vocabulary_size=len(vocabulary),
        feature_size=encoder.feature_size,
        generator=generator,
    )
    save_checkpoint(
        folder / "best", encoder=encoder, decoder=decoder, vocabulary=vocabulary, summary={}
    )
    out = folder / "exported"
    export_captioner(folder / "best", ExportOptions(out=out), announce=lambda _: None)
    return out
