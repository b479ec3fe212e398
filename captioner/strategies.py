"""Which search finds the captions of which image: beam search, its controlled forms, or draws."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from captioner.control import Control
from captioner.control_search import control_search
from captioner.features import Features
from captioner.sampling import sample
from captioner.search import Hypothesis, search
from captioner.search_config import SearchConfig

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
) -> list[list[Hypothesis]]:
    """Return the captions of every image; images that are searched alike share a batch."""
    groups: dict[Strategy, list[int]] = {}
    for image, (config, control) in enumerate(zip(configs, controls, strict=True)):
        groups.setdefault(_strategy(config, control), []).append(image)
    result: list[list[Hypothesis]] = [[] for _ in configs]
    for strategy, images in groups.items():
        some = features if len(images) == len(configs) else features.select(np.array(images))
        decoding = begin(some)
        attributes = decoding.attributes
        found = strategy(
            decoding, [configs[image] for image in images], [controls[image] for image in images]
        )
        for place, (image, hypotheses) in enumerate(zip(images, found, strict=True)):
            result[image] = hypotheses
            if attributes is not None:
                known = tuple(zip(*(part[place].tolist() for part in attributes), strict=True))
                result[image] = [replace(one, attributes=known) for one in hypotheses]
    return result


def _strategy(config: SearchConfig, control: Control | None) -> Strategy:
    if config.sample:
        return sample
    if config.diverse_groups > 1 or (control is not None and control.include):
        return control_search
    return search
