"""Greedy and beam search for captions: many images at once, all bookkeeping in numpy.

A beam keeps the K most probable unfinished captions of an image. Finished ones go to a pool of the
K best by length-normalised score. An image is done when its pool is full, or when no unfinished
caption could still enter the answer. Greedy search is a beam of size 1. The rules are the usual
ones of neural translation (Sutskever et al. 2014, section 3.2; Wu et al. 2016, section 7, for the
normalisation). A caption that has not ended at the maximum length is ranked as it is, so there is
always a caption.

The search sees a few candidates for the next word of each caption, whatever library has computed
them: of a beam's own 2K + 1 best words at most one is an end, so the 2K best of an image are there.
"""

import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from captioner.errors import CaptionerError
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, PAD, START

if TYPE_CHECKING:
    from captioner.engines.interface import Candidates, Decoding

IMPOSSIBLE = np.float32(-math.inf)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One caption of one image, as word ids.

    `log_prob` is what the decoder itself gives to these words and to the end after them (a
    caption cut at the greatest length has no end); `score` is what captions are ranked by.
    """

    words: tuple[int, ...]  # without start and end, at least one
    log_prob: float
    score: float  # log_prob / tokens ** length_power, the end counted as a token
    attention: np.ndarray | None  # float32 [words, items], where each word looked
    token_log_probs: tuple[float, ...]
    """Of each word, then of the end if the caption has one; they add up to `log_prob`."""
    attributes: tuple[tuple[int, float], ...] = ()
    """What the last of the items stand for: words that were found in the image, and how surely."""


class Constraint(Protocol):
    """What the captions of one image have to keep to; it sees every candidate of every step.

    A candidate that it vetoes cannot be written. Log-probabilities stay those of the decoder.
    """

    @property
    def wanted(self) -> Sequence[int]:
        """Words, all different, that are candidates after every caption."""

    def spare(self, length: int) -> int:
        """How many candidates after a caption of `length` words it may veto, but for the wanted."""

    def allows(self, captions: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return which candidates may be written, the end among them.

        Shapes:
            captions int64 [K, n], the n words of each caption so far; words int64 [K, C] -> bool
            [K, C]
        """


def search(
    decoding: "Decoding",
    configs: Sequence[SearchConfig],
    constraints: Sequence[Constraint | None] | None = None,
) -> list[list[Hypothesis]]:
    """Return the best captions of every image, the best first.

    All images share one batch, each with a configuration of its own and, where there are any, a
    constraint. An image gets fewer than `num_captions` only where the vocabulary or its constraint
    allows no more; all differ. Equal scores are ordered by length, then by word id, so a result is
    repeatable. Other images of the batch change it in rounding alone.

    Raises:
        CaptionerError: the decoder's logits are not numbers, or allow no word.
    """
    if not configs:
        return []
    images, beams = len(configs), max(one.beam_size for one in configs)
    steps = max(one.max_length for one in configs)
    last_steps = {one.max_length for one in configs}
    limits = _Limits.of(configs)
    pool, history = _Pool(configs), _History(images)
    constrained = _Constrained(constraints) if constraints and any(constraints) else None
    wanted = constrained.wanted if constrained else np.zeros((images, 0), np.int64)
    rows = np.arange(images)  # the image that each row of the batch belongs to
    words, parents = np.full((images, 1), START), np.zeros((images, 1), np.int64)
    live = np.zeros((images, 1), np.float32)  # log-probability of each unfinished caption
    places = np.arange(2 * beams)
    is_mixed = any(one.beam_size < beams for one in configs)

    for step in range(steps):
        count = 2 * beams + 1 + (constrained.spare(step) if constrained else 0)
        found = decoding.step(words, parents, count, wanted)
        log_probs, tokens = constrained.join(found) if constrained else found[:2]
        if step == 0:
            log_probs = np.where(tokens == END, IMPOSSIBLE, log_probs)
        totals = (live[:, :, None] + log_probs).reshape(len(rows), -1)
        if math.isnan(np.add.reduce(totals, axis=None)):
            raise no_caption()
        # Stable: of equals the one of the better beam, then of the lower word id comes first.
        order = (-totals).argsort(axis=1, kind="stable")[:, : 2 * beams]
        values, tokens = _take(order, totals, tokens)
        parents = order // log_probs.shape[2]

        # At most one candidate per beam is an end: the 2K best hold K that go on. An image whose
        # beam is narrower than the batch's finds its own 2K best among the first.
        is_end = tokens == END
        is_beyond = places[: order.shape[1]] >= limits.beam_size[:, None] if is_mixed else None
        if np.count_nonzero(is_end):
            ending = is_end if is_beyond is None else is_end & ~is_beyond
            at = ending[:, :beams].nonzero()
            divisor = limits.divisor[at[0], step + 1]
            pool.add(rows[at[0]], values[at], divisor, step, parents[at])
            on = is_end.argsort(axis=1, kind="stable")[:, :beams]
            live, words, parents = _take(on, np.where(is_end, IMPOSSIBLE, values), tokens, parents)
        else:
            live, words, parents = values[:, :beams], tokens[:, :beams], parents[:, :beams]
        if is_beyond is not None:
            live = np.where(is_beyond[:, : live.shape[1]], IMPOSSIBLE, live)
        history.write(words, parents, live, found.attention)

        if step + 1 in last_steps:
            at = ((limits.max_length == step + 1)[:, None] & (live > IMPOSSIBLE)).nonzero()
            pool.add(rows[at[0]], live[at], limits.divisor[at[0], step + 1], step + 1, at[1])
        if step + 1 == steps:
            break
        if constrained:
            constrained.write(words, parents)
        if pool.is_empty:
            continue

        # No caption has more tokens, and no log-probability grows: nothing can do better than this.
        bound = np.maximum.reduce(live, axis=1) / limits.longest
        is_done = pool.is_full[rows] | (pool.to_beat[rows] >= bound)
        is_done |= limits.max_length == step + 1
        done = np.count_nonzero(is_done)
        if done == len(rows):
            break
        if done:
            live = np.where(is_done[:, None], IMPOSSIBLE, live)
        if 4 * done >= len(rows):
            going = np.flatnonzero(~is_done)
            rows, live, words, parents = rows[going], live[going], words[going], parents[going]
            limits, wanted = limits.of_images(going), wanted[going]
            history.keep(rows)
            decoding.keep(going)
            if constrained:
                constrained.keep(going)

    return _captions(pool, history, configs)


class _Limits(NamedTuple):
    """The configurations of all images as arrays [images]."""

    beam_size: np.ndarray
    max_length: np.ndarray
    longest: np.ndarray  # the divisor of as many tokens as there may be
    divisor: np.ndarray  # [images, tokens + 1], what a log-probability of so many is divided by

    @classmethod
    def of(cls, configs: Sequence[SearchConfig]) -> Self:
        tokens = range(max(one.max_length for one in configs) + 1)
        powers = [[float(max(n, 1) ** one.length_power) for n in tokens] for one in configs]
        divisor = np.array(powers, dtype=np.float32)
        max_length = np.array([one.max_length for one in configs])
        return cls(
            beam_size=np.array([one.beam_size for one in configs]),
            max_length=max_length,
            longest=divisor[np.arange(len(configs)), max_length],
            divisor=divisor,
        )

    def of_images(self, images: np.ndarray) -> Self:
        return type(self)(*(part[images] for part in self))


class _Finished(NamedTuple):
    """A caption that is over."""

    score: float
    log_prob: float
    length: int  # words
    slot: int  # the beam of step length - 1 that the last word stands in


class _Pool:
    """The best finished captions of every image, the best first, as many as its beam is wide."""

    def __init__(self, configs: Sequence[SearchConfig]) -> None:
        self._configs = configs
        self.best: list[list[_Finished]] = [[] for _ in configs]
        self.is_empty = True
        self.is_full = np.zeros(len(configs), np.bool_)
        self.to_beat = np.full(len(configs), IMPOSSIBLE)  # the score of the last in the answer

    def add(
        self,
        images: np.ndarray,
        log_probs: np.ndarray,
        divisors: np.ndarray,
        length: int,
        slots: np.ndarray,
    ) -> None:
        """Let new captions compete with those of the same images; all arrays [n]."""
        numbers = (images, log_probs / divisors, log_probs, slots)
        for image, score, log_prob, slot in zip(*(one.tolist() for one in numbers), strict=True):
            if score == IMPOSSIBLE:
                continue
            best, config = self.best[image], self._configs[image]
            # After its equals, which have fewer words or stand in a better beam.
            insort(best, _Finished(score, log_prob, length, slot), key=lambda one: -one.score)
            del best[config.beam_size :]
            self.is_empty = False
            self.is_full[image] = len(best) == config.beam_size
            if len(best) >= config.num_captions:
                self.to_beat[image] = best[config.num_captions - 1].score


class _History:
    """What every beam chose at every step: words, the beams that they continue, and totals."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._row_of = np.arange(images)  # of each image, in what is written now
        self._steps: list[tuple[np.ndarray, ...]] = []
        self._looked: list[np.ndarray | None] = []

    def write(
        self,
        words: np.ndarray,
        parents: np.ndarray,
        log_probs: np.ndarray,
        attention: np.ndarray | None,
    ) -> None:
        """Add a step: [rows, K], and [rows, K', items] of the beams before the word."""
        self._steps.append((self._row_of, words, parents, log_probs))
        self._looked.append(attention)

    def keep(self, images: np.ndarray) -> None:
        """Note that the rows of the next steps belong to these images."""
        self._row_of = np.full(self._images, -1)
        self._row_of[images] = np.arange(len(images))

    def trace(
        self, image: int, slot: int, length: int
    ) -> tuple[list[int], list[float], np.ndarray | None]:
        """Follow a caption back from its last beam.

        Return its words, the log-probability of the caption up to each, attention [words, items].
        """
        words, totals = [0] * length, [0.0] * length
        looked: np.ndarray | None = None
        for step in reversed(range(length)):
            row_of, written, parents, log_probs = self._steps[step]
            row = row_of[image]
            words[step], totals[step] = int(written[row, slot]), float(log_probs[row, slot])
            slot = parents[row, slot]
            attention = self._looked[step]
            if attention is not None:
                if looked is None:
                    looked = np.empty((length, attention.shape[2]), attention.dtype)
                looked[step] = attention[row, slot]
        return words, totals, looked


class _Constrained:
    """The constraints of a batch, with the captions so far that they look at."""

    def __init__(self, constraints: Sequence[Constraint | None]) -> None:
        self._constraints = list(constraints)
        most = max(len(one.wanted) for one in constraints if one)
        asked = [list(one.wanted) if one else [] for one in constraints]
        # A place that is left over asks for what is never written.
        self.wanted = np.array([ids + [PAD] * (most - len(ids)) for ids in asked], np.int64)
        self._captions = np.zeros((len(constraints), 1, 0), np.int64)

    def join(self, found: "Candidates") -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities and words, the wanted ones among them, -inf if vetoed."""
        wanted = np.broadcast_to(self.wanted[:, None], found.wanted.shape)
        is_twice = (wanted[..., None] == found.words[:, :, None]).any(axis=3)
        extra = np.where(is_twice, IMPOSSIBLE, found.wanted)
        words = np.concatenate([found.words, wanted], axis=2)
        log_probs = np.concatenate([found.log_probs, extra], axis=2)
        for row, constraint in enumerate(self._constraints):
            if constraint is not None:
                log_probs[row, ~constraint.allows(self._captions[row], words[row])] = IMPOSSIBLE
        return log_probs, words

    def spare(self, length: int) -> int:
        return max((one.spare(length) for one in self._constraints if one), default=0)

    def write(self, words: np.ndarray, parents: np.ndarray) -> None:
        before = self._captions[np.arange(len(parents))[:, None], parents]
        self._captions = np.concatenate([before, words[:, :, None]], axis=2)

    def keep(self, rows: np.ndarray) -> None:
        self._constraints = [self._constraints[row] for row in rows]
        self.wanted, self._captions = self.wanted[rows], self._captions[rows]


def _take(columns: np.ndarray, *tables: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the chosen columns of every row of each table, all of as many elements."""
    size = tables[0].size
    flat = columns + np.arange(0, size, size // len(columns))[:, None]
    return (table.ravel().take(flat) for table in tables)


def _captions(
    pool: _Pool, history: _History, configs: Sequence[SearchConfig]
) -> list[list[Hypothesis]]:
    result = []
    for image, (best, config) in enumerate(zip(pool.best, configs, strict=True)):
        if not best:
            raise no_caption()
        hypotheses = []
        for score, log_prob, length, slot in best[: config.num_captions]:
            words, totals, attention = history.trace(image, slot, length)
            if length < config.max_length:  # else it was cut, and has no end
                totals.append(log_prob)
            each = tuple(after - before for before, after in pairwise([0.0, *totals]))
            hypotheses.append(Hypothesis(tuple(words), log_prob, score, attention, each))
        result.append(hypotheses)
    return result


class NoCaptionError(CaptionerError):
    """No word is possible after any caption of an image."""


def no_caption() -> NoCaptionError:
    return NoCaptionError(
        "the decoder gives no word a probability: its logits are not numbers or its "
        "vocabulary is empty; use a checkpoint from before its training went wrong"
    )
