"""Beam searches that keep several beams of one image apart, for words to include and for diversity.

Words to include: an image has a beam for each set of those words that a caption holds already, so
captions compete with such that have come as far (constrained beam search, Anderson et al. 2017,
section 3.1, with the sets as the states of the machine). Only captions with all the words may end.

Diverse captions: the beam is cut into groups that choose one after the other at each step, and a
word loses log-probability for each choice of it by an earlier group (Vijayakumar et al. 2018,
Hamming diversity). A group passes over a caption that an earlier group has found already, and goes
on without it. The best caption of each group comes before the second of any.

For one set and one group the rules, and the captions, are those of `captioner.search`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captioner.control import Control
from captioner.search import Hypothesis, no_caption
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, PAD, START

if TYPE_CHECKING:
    from captioner.engines.interface import Candidates, Decoding

_NONE = Control()


def control_search(
    decoding: "Decoding",
    configs: Sequence[SearchConfig],
    controls: Sequence[Control | None],
) -> list[list[Hypothesis]]:
    """Return the best captions of every image, the best first, all different.

    An image gets fewer than `num_captions` only where its demands or the vocabulary allow no more.

    Raises:
        CaptionerError: the decoder's logits are not numbers, or no caption meets the demands.
    """
    searches = [
        _Search(one, control or _NONE) for one, control in zip(configs, controls, strict=True)
    ]
    count = max(one.candidates for one in searches)
    most = max(len(one.control.include) for one in searches)
    going = list(searches)
    words, parents = np.full((len(going), 1), START), np.zeros((len(going), 1), np.int64)
    for step in range(max(one.max_length for one in configs)):
        wanted = np.array([_filled(one.control.include, most) for one in going], np.int64)
        found = decoding.step(words, parents, count, wanted.reshape(len(going), most))
        for row, one in enumerate(going):
            one.advance(step, _OfImage.of(found, row))
        kept = [row for row, one in enumerate(going) if not one.is_done]
        if not kept:
            break
        if len(kept) < len(going):
            decoding.keep(np.array(kept))
            going = [going[row] for row in kept]
        width = max(len(one.live) for one in going)
        words = np.array([_filled([live.words[-1] for live in one.live], width) for one in going])
        parents = np.array([_filled([live.parent for live in one.live], width) for one in going])
    return [one.result() for one in searches]


class _OfImage(NamedTuple):
    """The candidates after each caption of one image."""

    log_probs: np.ndarray  # [K, C]
    words: np.ndarray  # [K, C]
    wanted: np.ndarray  # [K, Q]
    attention: np.ndarray | None  # [K, items]

    @classmethod
    def of(cls, found: "Candidates", row: int) -> "_OfImage":
        looked = found.attention
        return cls(
            found.log_probs[row],
            found.words[row],
            found.wanted[row],
            None if looked is None else looked[row],
        )


class _Live(NamedTuple):
    """A caption that has not ended."""

    log_prob: np.float32
    ranked: np.float32  # the same, less what the choices of other groups cost
    words: tuple[int, ...]
    parent: int  # the row that it continues
    attention: tuple[np.ndarray, ...]
    group: int
    held: int  # a bit for each word to include
    token_log_probs: tuple[float, ...]


class _Finished(NamedTuple):
    rank: float  # in its group: the score, less what the choices of other groups cost
    score: float
    log_prob: float
    caption: _Live


@dataclass
class _Search:
    """The search for one image's captions."""

    config: SearchConfig
    control: Control
    live: list[_Live] = field(default_factory=list)
    is_done: bool = False

    def __post_init__(self) -> None:
        self._width = self.config.beam_size // self.config.diverse_groups
        self._all = 2 ** len(self.control.include) - 1
        self._bits = {word: 1 << place for place, word in enumerate(self.control.include)}
        self._pools: list[list[_Finished]] = [[] for _ in range(self.config.diverse_groups)]
        self._taken: set[tuple[int, ...]] = set()  # what earlier groups have found
        nothing = np.float32(0)
        self.live = [
            _Live(nothing, nothing, (), 0, (), group, 0, ())
            for group in range(self.config.diverse_groups)
        ]

    @property
    def candidates(self) -> int:
        """How many words after a caption can matter: some are vetoed, wanted or chosen before."""
        others = self.config.beam_size if self.config.diverse_groups > 1 else 0
        # A full beam of words, each with an end between; and a group may choose for every set.
        others *= self._all + 1
        spare = self.control.spare(self.config.max_length)
        return 2 * self._width + 1 + spare + len(self.control.include) + others

    def advance(self, step: int, found: _OfImage) -> None:
        """Add a word to every caption, and note whether all is done."""
        if np.isnan(found.log_probs).any():
            raise no_caption()
        before, self.live = self.live, []
        self._taken.clear()
        chosen: Counter[int] = Counter()
        for group in range(self.config.diverse_groups):
            beams: dict[int, list[_Live]] = {}
            for row, caption in enumerate(before):
                if caption.group == group:
                    # At the first step all groups continue the one row that there is.
                    at = min(row, len(found.log_probs) - 1)
                    for one in self._continued(caption, at, step, found, chosen):
                        beams.setdefault(one.held, []).append(one)
            for held in sorted(beams):
                self._choose(step, beams[held])
            own = [one for one in self.live if one.group == group]
            if self._is_group_done(group):
                self.live = [one for one in self.live if one.group != group]
            else:
                chosen.update(one.words[-1] for one in own)
            if step + 1 == self.config.max_length:
                for one in own:
                    if one.held == self._all:
                        self._finish(one, one.words, step + 1)
            self._taken.update(one.caption.words for one in self._pools[group])
        self.is_done = step + 1 == self.config.max_length or not self.live

    def result(self) -> list[Hypothesis]:
        """Return the best captions, those that lead their group before the others."""
        ranked = [(place, one) for pool in self._pools for place, one in enumerate(pool)]
        best = sorted(ranked, key=lambda pair: (pair[0], -pair[1].score))
        if not best:
            raise no_caption()
        chosen = [one for _, one in best[: self.config.num_captions]]
        return [
            Hypothesis(
                one.caption.words,
                one.log_prob,
                one.score,
                np.stack(one.caption.attention) if one.caption.attention else None,
                one.caption.token_log_probs,
            )
            for one in sorted(chosen, key=lambda one: -one.score)
        ]

    def _continued(
        self, caption: _Live, row: int, step: int, found: _OfImage, chosen: Counter[int]
    ) -> Iterator[_Live]:
        """Yield the caption with each word that may follow; the last word may be END."""
        log_probs = [*found.log_probs[row], *found.wanted[row, : len(self._bits)]]
        words = np.concatenate([found.words[row], np.array(self.control.include, np.int64)])
        allowed = self.control.allows(np.array([caption.words], np.int64), words[None])[0]
        seen: set[int] = set()
        attention = caption.attention
        if found.attention is not None:
            attention = (*attention, found.attention[row])
        for log_prob, word, is_allowed in zip(
            log_probs, words.tolist(), allowed.tolist(), strict=True
        ):
            if not is_allowed or word in seen or log_prob == -np.inf:
                continue
            if word == END and (step == 0 or caption.held != self._all):
                continue
            seen.add(word)
            cost = np.float32(self.config.diversity * chosen[word]) if chosen else np.float32(0)
            yield caption._replace(
                log_prob=caption.log_prob + log_prob,
                ranked=caption.ranked + log_prob - cost,
                words=(*caption.words, word),
                parent=row,
                attention=attention,
                held=caption.held | self._bits.get(word, 0),
                token_log_probs=(*caption.token_log_probs, float(log_prob)),
            )

    def _choose(self, step: int, options: list[_Live]) -> None:
        """Keep the best of one beam; the ends among its first go to the pool."""
        # Stable: of equals the one of the better row comes first, then that of the lower word id.
        options.sort(key=lambda one: (-one.ranked, one.parent, one.words[-1]))
        for one in options[: self._width]:
            if one.words[-1] == END:
                self._finish(one._replace(attention=one.attention[:-1]), one.words[:-1], step + 1)
        going = [one for one in options[: 2 * self._width] if one.words[-1] != END]
        if step + 1 == self.config.max_length and self._taken:  # they are cut, and are captions now
            going = [
                one for one in options if one.words[-1] != END and one.words not in self._taken
            ]
        self.live += going[: self._width]

    def _finish(self, caption: _Live, words: tuple[int, ...], tokens: int) -> None:
        if words in self._taken:
            return
        divisor = np.float32(tokens**self.config.length_power)
        pool = self._pools[caption.group]
        pool.append(
            _Finished(
                float(caption.ranked / divisor),
                float(caption.log_prob / divisor),
                float(caption.log_prob),
                caption._replace(words=words),
            )
        )
        pool.sort(key=lambda one: -one.rank)  # after its equals, which have fewer words
        del pool[self._width :]

    def _is_group_done(self, group: int) -> bool:
        pool = self._pools[group]
        if len(pool) == self._width:
            return True
        own = [one.ranked for one in self.live if one.group == group]
        if not own:
            return True
        needed = min(self.config.num_captions, self._width)
        if len(pool) < needed:
            return False
        # No caption has more tokens, and no log-probability grows: nothing can do better than this.
        longest = np.float32(max(self.config.max_length, 1) ** self.config.length_power)
        return bool(pool[needed - 1].rank >= float(max(own) / longest))


def _filled(values: Sequence[int], width: int) -> list[int]:
    """Return the values and, up to `width`, what is read and ignored."""
    return [*values, *[PAD] * (width - len(values))]
