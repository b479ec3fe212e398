"""`captioner caption --server URL`: captions made by a service, in the same output formats."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.client import CaptionClient
from captioner.commands.caption import Captioned, Outcome
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.pictures import Box

CONCURRENCY = 8  # as many as a service puts into one batch
KEY_VARIABLE = "CAPTIONER_API_KEY"  # not an option: every user of a machine sees its command lines


def caption_by_service(
    url: str, photographs: Sequence[Path], search: Mapping[str, Any], attention: bool
) -> Iterator[Outcome]:
    """Yield what becomes of each photograph.

    Raises:
        ServiceError: there is no service there, or it refuses whatever it is sent.
        OptionError: the address or the key cannot be one.
    """
    with CaptionClient(url, os.environ.get(KEY_VARIABLE)) as client:
        outcomes = client.caption_each(
            photographs, concurrency=CONCURRENCY, attention=attention, **search
        )
        for outcome in outcomes:
            if isinstance(outcome, CaptionerError):
                yield outcome
            else:
                seen = outcome.seen or (0.0, 0.0, 1.0, 1.0)
                yield Captioned(outcome.captions, partial(_in_pixels, seen))


def _in_pixels(seen: Sequence[float], size: tuple[int, int]) -> "Box":
    left, top, right, bottom = seen
    width, height = size
    return (left * width, top * height, right * width, bottom * height)
