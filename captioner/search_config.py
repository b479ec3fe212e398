"""Options of a search for captions, declared once for the library, its commands and the service.

Importing this does not import torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from captioner.options import Options, at_least, option

# What a request to a service may ask at most. A program decides for itself.
MAX_BEAM_SIZE = 10
MAX_LENGTH = 200  # words


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Options):
    is_named_by_flags = False

    beam_size: int = option(
        3,
        "captions searched side by side; 1 is greedy search",
        metavar="N",
        within=at_least(1, "a beam needs at least 1 caption (1 is greedy)"),
    )
    num_captions: int = option(
        1,
        "captions returned for each photograph, the best first; at most as many as the beam holds",
        metavar="K",
        within=at_least(1, "ask for at least 1 caption"),
    )
    max_length: int = option(
        20,
        "most words of a caption",
        metavar="N",
        within=at_least(1, "a caption needs room for at least 1 word"),
    )
    length_power: float = option(
        0.7,  # scored best on validation photographs
        "a caption's log-probability is divided by its number of tokens to this power",
        metavar="X",
        within=at_least(0, "give 0 (no normalisation) or more, 1 is the mean per token"),
    )

    def contradictions(self) -> Iterable[str]:
        if self.num_captions > self.beam_size:
            yield (
                f"num_captions is {self.num_captions} and beam_size {self.beam_size}; "
                "ask for at most as many captions as the beam holds"
            )

    @classmethod
    def for_captions(
        cls, num_captions: int = 1, beam_size: int | None = None, **others: Any
    ) -> Self:
        """Return a configuration for so many captions.

        Without `beam_size` the beam is as wide as they need, and at least the default.
        """
        if beam_size is None:
            beam_size = max(num_captions, cls.beam_size)
        return cls(beam_size=beam_size, num_captions=num_captions, **others)
