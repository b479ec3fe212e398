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
from collections.abc import Sequence
from dataclasses import dataclass
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
    attention: np.ndarray | None  # float32 [words, positions], where each word looked


class Constraint(Protocol):
    """What the captions of one image have to keep to; it sees every candidate of every step.

    A candidate that it vetoes cannot be written. Log-probabilities stay those of the decoder.
    """

    wanted: Sequence[int]  # words, all different, that are candidates after every caption
    spare: int  # how many candidates after one caption it may veto, but for the wanted words

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
    pool, history = _Pool(images, beams), _History(images)
    constrained = _Constrained(constraints) if constraints and any(constraints) else None
    count = 2 * beams + 1 + (constrained.spare if constrained else 0)
    nothing_wanted = np.zeros((images, 0), np.int64)
    rows = np.arange(images)  # the image that each row of the batch belongs to
    words, parents = np.full((images, 1), START), np.zeros((images, 1), np.int64)
    live = np.zeros((images, 1), np.float32)  # log-probability of each unfinished caption
    places = np.arange(2 * beams)

    for step in range(steps):
        wanted = constrained.wanted if constrained else nothing_wanted[: len(rows)]
        found = decoding.step(words, parents, count, wanted)
        log_probs, tokens = constrained.join(found) if constrained else found[:2]
        if step == 0:
            log_probs = np.where(tokens == END, IMPOSSIBLE, log_probs)
        totals = (live[:, :, None] + log_probs).reshape(len(rows), -1)
        if math.isnan(totals.sum()):
            raise _no_caption()
        # Stable: of equals the one of the better beam, then of the lower word id comes first.
        order = (-totals).argsort(axis=1, kind="stable")[:, : 2 * beams]
        values, tokens = _take(totals, order), _take(tokens.reshape(totals.shape), order)
        parents = order // log_probs.shape[2]

        # At most one candidate per beam is an end: the 2K best hold K that go on. An image whose
        # beam is narrower than the batch's finds its own 2K best among the first.
        is_beyond = places[: order.shape[1]] >= limits.beam_size
        is_end = tokens == END
        if is_end.any():
            ending = np.where(is_end & ~is_beyond, values, IMPOSSIBLE)[:, :beams]
            score = ending / limits.divisor[:, step + 1 : step + 2]
            pool.add(rows, score, ending, step, parents[:, :beams])
            on = is_end.argsort(axis=1, kind="stable")[:, :beams]
            live = _take(np.where(is_end, IMPOSSIBLE, values), on)
            words, parents = _take(tokens, on), _take(parents, on)
        else:
            live, words, parents = values[:, :beams], tokens[:, :beams], parents[:, :beams]
        live = np.where(is_beyond[:, : live.shape[1]], IMPOSSIBLE, live)
        history.write(words, parents, found.attention)

        is_last = limits.max_length == step + 1  # [B, 1]
        if step + 1 in last_steps:
            cut = np.where(is_last, live, IMPOSSIBLE)
            score = cut / limits.divisor[:, step + 1 : step + 2]
            pool.add(rows, score, cut, step + 1, places[: live.shape[1]])
        if step + 1 == steps:
            break

        if pool.is_empty:
            done = 0
        else:
            # No caption has more tokens, and no log-probability grows: nothing can beat this.
            bound = live.max(axis=1, keepdims=True) / limits.longest
            scores = pool.score[rows]
            is_full = _take(scores, limits.beam_size - 1) > IMPOSSIBLE
            is_best = _take(scores, limits.num_captions - 1) >= bound
            is_done = is_full | is_best | is_last
            done = int(is_done.sum())
        if done == len(rows):
            break
        if done:
            live = np.where(is_done, IMPOSSIBLE, live)
        if constrained:
            constrained.write(words, parents)
        if 4 * done >= len(rows):
            going = np.flatnonzero(~is_done)
            rows, live, words, parents = rows[going], live[going], words[going], parents[going]
            limits = limits.of_images(going)
            history.keep(rows)
            decoding.keep(going)
            if constrained:
                constrained.keep(going)

    return _captions(pool, history, [one.num_captions for one in configs])


class _Limits(NamedTuple):
    """The configurations of all images as arrays [images, 1], but for the divisors."""

    beam_size: np.ndarray
    num_captions: np.ndarray
    max_length: np.ndarray
    longest: np.ndarray  # the divisor of as many tokens as there may be
    divisor: np.ndarray  # [images, tokens + 1], what a log-probability of so many is divided by

    @classmethod
    def of(cls, configs: Sequence[SearchConfig]) -> Self:
        tokens = range(max(one.max_length for one in configs) + 1)
        divisor = np.array(
            [[float(max(n, 1) ** one.length_power) for n in tokens] for one in configs],
            dtype=np.float32,
        )
        max_length = np.array([[one.max_length] for one in configs])
        return cls(
            beam_size=np.array([[one.beam_size] for one in configs]),
            num_captions=np.array([[one.num_captions] for one in configs]),
            max_length=max_length,
            longest=_take(divisor, max_length),
            divisor=divisor,
        )

    def of_images(self, images: np.ndarray) -> Self:
        return type(self)(*(part[images] for part in self))


class _Pool:
    """The best finished captions of every image, the best first; each array is [images, beams]."""

    def __init__(self, images: int, beams: int) -> None:
        self.is_empty = True
        self.score = np.full((images, beams), IMPOSSIBLE)  # until there is one
        self.log_prob = self.score.copy()
        self.length = np.zeros((images, beams), np.int64)  # words
        self.slot = self.length.copy()  # the beam of step length - 1 that the last word stands in

    def add(
        self,
        rows: np.ndarray,
        score: np.ndarray,
        log_prob: np.ndarray,
        length: int,
        slot: np.ndarray,
    ) -> None:
        """Let new captions [rows, some] compete with those of the same images."""
        self.is_empty = False
        size = self.score.shape[1]
        joined = np.concatenate([self.score[rows], score], axis=1)
        order = (-joined).argsort(axis=1, kind="stable")[:, :size]
        lengths = np.broadcast_to(length, score.shape)
        slots = np.broadcast_to(slot, score.shape)
        self.score[rows] = _take(joined, order)
        for old, new in ((self.log_prob, log_prob), (self.length, lengths), (self.slot, slots)):
            old[rows] = _take(np.concatenate([old[rows], new], axis=1), order)


class _History:
    """What every beam chose at every step: the words, and the beams that they continue."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._row_of = np.arange(images)  # of each image, in what is written now
        self._steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]] = []

    def write(self, words: np.ndarray, parents: np.ndarray, attention: np.ndarray | None) -> None:
        """Add a step: [rows, K], and [rows, K', P] of the beams before the word."""
        self._steps.append((self._row_of, words, parents, attention))

    def keep(self, images: np.ndarray) -> None:
        """Note that the rows of the next steps belong to these images."""
        self._row_of = np.full(self._images, -1)
        self._row_of[images] = np.arange(len(images))

    def trace(self, image: int, slot: int, length: int) -> tuple[list[int], np.ndarray | None]:
        """Follow a caption back from its last beam: its words, and attention [words, P]."""
        words, looked = [], []
        for row_of, written, parents, attention in reversed(self._steps[:length]):
            row = row_of[image]
            words.append(int(written[row, slot]))
            slot = parents[row, slot]
            if attention is not None:
                looked.append(attention[row, slot])
        return words[::-1], np.stack(looked[::-1]) if looked else None


class _Constrained:
    """The constraints of a batch, with the captions so far that they look at."""

    def __init__(self, constraints: Sequence[Constraint | None]) -> None:
        self._constraints = list(constraints)
        self.spare = max(one.spare for one in constraints if one)
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

    def write(self, words: np.ndarray, parents: np.ndarray) -> None:
        before = self._captions[np.arange(len(parents))[:, None], parents]
        self._captions = np.concatenate([before, words[:, :, None]], axis=2)

    def keep(self, rows: np.ndarray) -> None:
        self._constraints = [self._constraints[row] for row in rows]
        self.wanted, self._captions = self.wanted[rows], self._captions[rows]


def _take(table: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the chosen columns of every row: `take_along_axis` in a tenth of its time."""
    starts = np.arange(0, table.size, table.shape[1])[:, None]
    return table.ravel().take(columns + starts)


def _captions(pool: _Pool, history: _History, counts: Sequence[int]) -> list[list[Hypothesis]]:
    numbers = (pool.score, pool.log_prob, pool.length, pool.slot)
    result = []
    rows = zip(counts, *(one.tolist() for one in numbers), strict=True)
    for image, (count, *row) in enumerate(rows):
        hypotheses = []
        for score, log_prob, length, slot in list(zip(*row, strict=True))[:count]:
            if score == IMPOSSIBLE:
                break
            words, attention = history.trace(image, slot, length)
            hypotheses.append(Hypothesis(tuple(words), log_prob, score, attention))
        if not hypotheses:
            raise _no_caption()
        result.append(hypotheses)
    return result


def _no_caption() -> CaptionerError:
    return CaptionerError(
        "the decoder gives no word a probability: its logits are not numbers or its "
        "vocabulary is empty; use a checkpoint from before its training went wrong"
    )
