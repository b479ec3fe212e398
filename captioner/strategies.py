"""Which search finds the captions of which image: beam search, its controlled forms, or draws."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from captioner.control import Control
from captioner.control_search import control_search
from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.sampling import sample
from captioner.search import Hypothesis, NoCaptionError, search
from captioner.search_config import SearchConfig
from captioner.sure_attributes import with_sure_attributes

if TYPE_CHECKING:
    from captioner.engines.interface import Decoding

Strategy = Callable[
    ["Decoding", Sequence[SearchConfig], Sequence[Control | None]], list[list[Hypothesis]]
]


def captions_of(
    begin: Callable[[Features], "Decoding"],
    features: Features,
    configs: Sequence[SearchConfig],
    controls: Sequence[Control | None],
    *,
    names_attributes: bool = False,
) -> list[list[Hypothesis]]:
    """Return the captions of every image; images that are searched alike share a batch.

    With `names_attributes`, those of plain searches name an attribute that is sure.
    """
    groups: dict[Strategy, list[int]] = {}
    for image, (config, control) in enumerate(zip(configs, controls, strict=True)):
        groups.setdefault(_strategy(config, control), []).append(image)
    result: list[list[Hypothesis]] = [[] for _ in configs]
    for strategy, images in groups.items():
        some = features if len(images) == len(configs) else features.select(np.array(images))
        decoding = begin(some)
        # A control that vetoes nothing would only cost time.
        own = [controls[image] for image in images]
        if strategy is search:
            own = [one if one is not None and one.vetoes else None for one in own]
        attributes = decoding.attributes
        try:
            found = strategy(decoding, [configs[image] for image in images], own)
        except NoCaptionError as problem:
            raise _explained(problem, [configs[image] for image in images]) from problem
        for place, (image, hypotheses) in enumerate(zip(images, found, strict=True)):
            result[image] = hypotheses
            if attributes is not None:
                known = tuple(zip(*(part[place].tolist() for part in attributes), strict=True))
                result[image] = [replace(one, attributes=known) for one in hypotheses]
    if names_attributes:
        plain = set(groups.get(search, ()))
        asked = [one if image in plain else None for image, one in enumerate(controls)]
        result = with_sure_attributes(begin, features, configs, asked, result)
    return result


def _explained(problem: NoCaptionError, configs: Sequence[SearchConfig]) -> CaptionerError:
    """Return an error that names what leaves no caption, where words are excluded."""
    most = max(configs, key=lambda one: len(one.exclude))
    if not most.exclude:
        return problem
    return CaptionerError(
        f"{most.label('exclude')} holds {len(most.exclude):,} words, and without them the model "
        "has no caption; exclude fewer"
    )


def _strategy(config: SearchConfig, control: Control | None) -> Strategy:
    if config.sample:
        return sample
    if config.diverse_groups > 1 or (control is not None and control.include):
        return control_search
    return search
