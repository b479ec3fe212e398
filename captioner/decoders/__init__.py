"""The decoders: language models of captions, conditioned on the grid features of an image.

To add one, write its file beside `show_tell.py` and enter it in `DECODERS`.
"""

import math

import torch
from torch import nn

from captioner.decoders.batch import CaptionBatch
from captioner.decoders.interface import (
    Decoder,
    DecoderConfig,
    DecoderOutput,
    Memory,
    State,
    Step,
    caption_loss,
)
from captioner.decoders.show_tell import ShowTell
from captioner.decoders.soft_attention import SoftAttention
from captioner.errors import OptionError

DECODERS: dict[str, type[Decoder]] = {
    decoder.name: decoder for decoder in (SoftAttention, ShowTell)
}

__all__ = [
    "DECODERS",
    "CaptionBatch",
    "Decoder",
    "DecoderConfig",
    "DecoderOutput",
    "Memory",
    "State",
    "Step",
    "build_decoder",
    "caption_loss",
]


def build_decoder(
    name: str, config: DecoderConfig, generator: torch.Generator | None = None
) -> Decoder:
    """Return a decoder with fresh weights drawn from `generator`.

    Linear layers get U(-1/sqrt(in), 1/sqrt(in)), those of the recurrence 1/sqrt(hidden) as in
    torch.nn.LSTM; embedding and output weights U(-0.1, 0.1), as the h-detach authors' captioner.

    Raises:
        OptionError: there is no decoder of this name.
    """
    if name not in DECODERS:
        raise OptionError(f"decoder is {name!r}; choose one of {', '.join(DECODERS)}")
    # Not on the meta device: its first use imports symbolic algebra for seconds.
    with torch.random.fork_rng(devices=[]):
        decoder = DECODERS[name](config)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    with torch.no_grad():
        for path, module in decoder.named_modules():
            if isinstance(module, nn.Linear):
                of_gates = path.endswith("_gates")
                bound = 1.0 / math.sqrt(config.hidden_size if of_gates else module.in_features)
                bound = 0.1 if path == "output" else bound
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None and path == "output":
                    module.bias.zero_()
                elif module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                module.weight.uniform_(-0.1, 0.1, generator=generator)
    return decoder
