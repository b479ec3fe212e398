"""Captions drawn word by word from what an engine gives to the next word.

Each word is drawn by the decoder's probabilities, sharpened or flattened by a temperature, among
the most probable words (`top_k`; Fan et al. 2018) or the fewest that together have enough
probability (`top_p`, nucleus sampling; Holtzman et al. 2020). A seed makes the draws repeatable:
an image then gets the same captions in any batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from captioner.control import Control
from captioner.search import IMPOSSIBLE, Hypothesis, no_caption
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, START

if TYPE_CHECKING:
    from captioner.engines.interface import Decoding

_ALL_WORDS = 2**30  # an engine gives no more than there are


def sample(
    decoding: "Decoding",
    configs: Sequence[SearchConfig],
    controls: Sequence[Control | None],
) -> list[list[Hypothesis]]:
    """Return `num_captions` drawn captions of every image, the best scored first.

    Some may be equal. A caption that has not ended at its greatest length is cut there. Words that
    a control vetoes are not drawn; the others share their probability.

    Raises:
        CaptionerError: the decoder's logits are not numbers, or allow no word.
    """
    images, rows = len(configs), max(one.num_captions for one in configs)
    draws = [np.random.default_rng(one.seed) for one in configs]
    count = _ALL_WORDS
    if all(one.top_k for one in configs):
        # The end is no candidate at first.
        count = 1 + max(
            one.top_k + (control.spare(one.max_length) if control else 0)
            for one, control in zip(configs, controls, strict=True)
        )
    wanted = np.zeros((images, 0), np.int64)
    words, parents = np.full((images, 1), START), np.zeros((images, 1), np.int64)
    log_probs = np.zeros((images, rows))
    is_over = np.zeros((images, rows), bool)
    captions = np.zeros((images, rows, 0), np.int64)
    looked: list[np.ndarray] = []
    each: list[np.ndarray] = []  # log-probabilities [images, rows] of the words drawn at each step
    for step in range(max(one.max_length for one in configs)):
        found = decoding.step(words, parents, count, wanted)
        values, candidates = found.log_probs, found.words
        if step == 0:
            values, candidates = (np.repeat(part, rows, axis=1) for part in (values, candidates))
            values = np.where(candidates == END, IMPOSSIBLE, values)
        if found.attention is not None:
            looked.append(
                np.broadcast_to(found.attention, (images, rows, found.attention.shape[2]))
            )
        words, own = np.empty((images, rows), np.int64), np.empty((images, rows))
        for image, (config, control) in enumerate(zip(configs, controls, strict=True)):
            # As many as are asked for, so that another image of the batch changes nothing.
            uniform = np.zeros(rows)
            uniform[: config.num_captions] = draws[image].random(config.num_captions)
            allowed = values[image].astype(np.float64)
            if np.isnan(allowed).any():
                raise no_caption()
            if control is not None:
                is_allowed = control.allows(captions[image], candidates[image])
                allowed = np.where(is_allowed, allowed, -np.inf)
            chosen = draw(allowed, uniform, config)
            words[image] = np.take_along_axis(candidates[image], chosen[:, None], 1)[:, 0]
            own[image] = np.take_along_axis(values[image], chosen[:, None], 1)[:, 0]
        words[is_over], own[is_over] = END, 0.0
        log_probs += own
        each.append(own)
        captions = np.concatenate([captions, words[:, :, None]], axis=2)
        is_over |= words == END
        is_cut = np.array([one.max_length for one in configs]) <= step + 1
        is_over |= is_cut[:, None]
        if is_over.all():
            break
        # At first all captions go on from the one row that there is.
        own_rows = np.arange(rows) if step else np.zeros(rows, np.int64)
        parents = np.repeat(own_rows[None], images, axis=0)
    return [
        _hypotheses(
            config,
            captions[image],
            log_probs[image],
            [part[image] for part in each],
            [part[image] for part in looked],
        )
        for image, config in enumerate(configs)
    ]


def draw(log_probs: np.ndarray, uniform: np.ndarray, config: SearchConfig) -> np.ndarray:
    """Return the place of one candidate of each row, drawn by numbers in [0, 1).

    Shapes:
        log_probs float64 [K, C], the best first but for those that are -inf, uniform [K] -> [K]

    Raises:
        CaptionerError: no candidate of a row is possible.
    """
    order = np.argsort(-log_probs, axis=1, kind="stable")
    ordered = np.take_along_axis(log_probs, order, 1)
    if config.top_k:
        ordered[:, config.top_k :] = -np.inf
    if not np.isfinite(ordered[:, 0]).all():
        raise no_caption()
    # The best is subtracted before: a quotient that overflows is then a weight of 0.
    with np.errstate(over="ignore"):
        weights = np.exp((ordered - ordered[:, :1]) / config.temperature)
    cumulative = weights.cumsum(axis=1)
    if config.top_p < 1:
        # The first word that reaches the probability is the last one that may be drawn.
        is_reached = cumulative >= config.top_p * cumulative[:, -1:]
        last = is_reached.argmax(axis=1)
        total = np.take_along_axis(cumulative, last[:, None], 1)
    else:
        last = (weights > 0).sum(axis=1) - 1
        total = cumulative[:, -1:]
    place = (cumulative <= uniform[:, None] * total).sum(axis=1)
    return np.take_along_axis(order, np.minimum(place, last)[:, None], 1)[:, 0]


def _hypotheses(
    config: SearchConfig,
    captions: np.ndarray,
    log_probs: np.ndarray,
    each: list[np.ndarray],
    looked: list[np.ndarray],
) -> list[Hypothesis]:
    found = []
    for row in range(config.num_captions):
        words = captions[row, : config.max_length]
        ends = np.flatnonzero(words == END)
        length = int(ends[0]) if len(ends) else len(words)
        tokens = length + bool(len(ends))
        score = float(log_probs[row]) / tokens**config.length_power
        attention = np.stack([part[row] for part in looked[:length]]) if looked else None
        ids = tuple(words[:length].tolist())
        of_tokens = tuple(float(part[row]) for part in each[:tokens])
        found.append(Hypothesis(ids, float(log_probs[row]), score, attention, of_tokens))
    return sorted(found, key=lambda one: -one.score)
