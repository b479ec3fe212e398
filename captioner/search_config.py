"""The options of a search for captions, declared once.

Importing this does not import torch.
"""

import math
from dataclasses import dataclass

from captioner.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How captions are searched for."""

    beam_size: int = 3  # unfinished captions kept per image
    num_captions: int = 1  # captions returned per image, at most beam_size
    max_length: int = 20  # words, end token not counted
    # score is log_prob / tokens ** length_power; 0.7 scored best on validation photographs
    length_power: float = 0.7

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise OptionError(
                f"beam_size is {self.beam_size}; a beam needs at least 1 caption (1 is greedy)"
            )
        if not 1 <= self.num_captions <= self.beam_size:
            raise OptionError(
                f"num_captions is {self.num_captions} and beam_size {self.beam_size}; "
                "ask for at least 1 caption and at most as many as the beam holds"
            )
        if self.max_length < 1:
            raise OptionError(
                f"max_length is {self.max_length}; a caption needs room for at least 1 word"
            )
        if not (math.isfinite(self.length_power) and self.length_power >= 0):
            raise OptionError(
                f"length_power is {self.length_power}; give 0 (no normalisation) or more, "
                "1 is the mean per token"
            )
