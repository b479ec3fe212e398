"""The decoders: language models of captions, conditioned on the features of an image.

To add one, write its file beside `show_tell.py` and enter it in `DECODERS`.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from captioner.decoders.adaptive_attention import AdaptiveAttention
from captioner.decoders.att_fcn import AttFcn
from captioner.decoders.batch import CaptionBatch
from captioner.decoders.hard_attention import HardAttention
from captioner.decoders.initial_weights import with_initial_weights
from captioner.decoders.interface import (
    Decoder,
    DecoderOptions,
    DecoderOutput,
    Step,
)
from captioner.decoders.lstm_attributes import LSTMAttributes
from captioner.decoders.neuraltalk import NeuralTalk
from captioner.decoders.show_tell import ShowTell
from captioner.decoders.soft_attention import SoftAttention
from captioner.decoders.twinnet import TwinNet, TwinNetAttention
from captioner.errors import OptionError

DECODERS: dict[str, type[Decoder]] = {
    decoder.name: decoder
    for decoder in (
        SoftAttention,
        ShowTell,
        NeuralTalk,
        AdaptiveAttention,
        HardAttention,
        LSTMAttributes,
        AttFcn,
        TwinNet,
        TwinNetAttention,
    )
}

__all__ = [
    "DECODERS",
    "CaptionBatch",
    "Decoder",
    "DecoderOptions",
    "DecoderOutput",
    "Step",
    "build_decoder",
    "decoder_class",
    "decoder_options",
]


def decoder_class(name: str) -> type[Decoder]:
    """Return the decoder of this name.

    Raises:
        OptionError: there is none.
    """
    if name not in DECODERS:
        raise OptionError(f"decoder is {name!r}; choose one of {', '.join(DECODERS)}")
    return DECODERS[name]


def decoder_options(name: str, values: Mapping[str, Any]) -> DecoderOptions:
    """Return the decoder's options among `values`, which may hold others as well.

    Raises:
        OptionError: there is no decoder of this name, or a value is out of range.
    """
    kind = decoder_class(name).Options
    return kind(**{item.name: values[item.name] for item in fields(kind) if item.name in values})


def build_decoder(
    name: str,
    options: DecoderOptions | None = None,
    *,
    vocabulary_size: int,
    feature_size: int,
    generator: torch.Generator | None = None,
) -> Decoder:
    """Return a decoder with fresh weights drawn from `generator`, without options its defaults.

    Raises:
        OptionError: there is no decoder of this name.
    """
    kind = decoder_class(name)
    options = kind.Options() if options is None else options
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return with_initial_weights(
        lambda: kind(options, vocabulary_size, feature_size), options.hidden_size, generator
    )
