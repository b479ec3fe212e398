"""Timing of engines: images per second of an encoder, milliseconds per image of a decoder."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

from captioner.engines.interface import Engine
from captioner.export.parts import Part
from captioner.features import Features
from captioner.search_config import SearchConfig

BATCHES = (1, 8)  # images
_SECONDS = 1.0  # for each engine and batch


Rates = Mapping[Part, Mapping[int, float]]  # images per second by batch size


def encoder_rates(
    engines: Mapping[Part, Engine], pixels: np.ndarray
) -> dict[Part, dict[int, float]]:
    """Return the images per second of every encoder; pixels is one image."""

    def work(engine: Engine, size: int) -> Callable[[], Any]:
        images = [pixels] * size
        return lambda: engine.encode(images)

    return _rates(engines, work)


def decoder_rates(
    engines: Mapping[Part, Engine], features: Features, config: SearchConfig
) -> dict[Part, dict[int, float]]:
    """Return the images per second of every decoder's search."""

    def work(engine: Engine, size: int) -> Callable[[], Any]:
        images = features.select(np.arange(size) % len(features))
        return lambda: engine.search(images, config)

    return _rates(engines, work)


def _rates(
    engines: Mapping[Part, Engine], work: Callable[[Engine, int], Callable[[], Any]]
) -> dict[Part, dict[int, float]]:
    """Return rates from medians; the engines take turns, so that all meet the same machine."""
    rates: dict[Part, dict[int, float]] = {part: {} for part in engines}
    for size in BATCHES:
        calls = {part: work(engine, size) for part, engine in engines.items()}
        seconds: dict[Part, list[float]] = {part: [] for part in calls}
        for call in calls.values():
            call()  # what a library does only once
        end = time.perf_counter() + _SECONDS * len(calls)
        while not all(seconds.values()) or time.perf_counter() < end:
            for part, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[part].append(time.perf_counter() - start)
        for part, taken in seconds.items():
            rates[part][size] = size / median(taken)
    return rates
