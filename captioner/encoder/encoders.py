"""The encoders by name. To add one, write its file beside `timm_encoder.py` and enter it here."""

import torch
from torch import Tensor

from captioner.encoder.config import EncoderConfig
from captioner.encoder.interface import Encoder
from captioner.encoder.preprocessing import Preprocessing
from captioner.encoder.timm_encoder import TimmEncoder

ENCODERS: dict[str, type[Encoder]] = {}  # any other name is timm's


def create_encoder(config: EncoderConfig, generator: torch.Generator | None = None) -> Encoder:
    """Return the encoder that `config` names, as `Encoder.create` does."""
    return ENCODERS.get(config.name, TimmEncoder).create(config, generator)


def restore_encoder(
    config: EncoderConfig, preprocessing: Preprocessing, state: dict[str, Tensor]
) -> Encoder:
    """Return the encoder that `config` names with a saved state, as `Encoder.restore` does."""
    return ENCODERS.get(config.name, TimmEncoder).restore(config, preprocessing, state)
