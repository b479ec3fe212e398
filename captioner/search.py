"""Greedy and beam search for captions: many images at once, all bookkeeping in tensors.

A beam keeps the K most probable unfinished captions of an image. Finished ones go to a pool of the
K best by length-normalised score. An image is done when its pool is full, or when no unfinished
caption could still enter the answer. Greedy search is a beam of size 1. The rules are the usual
ones of neural translation (Sutskever et al. 2014, section 3.2; Wu et al. 2016, section 7, for the
normalisation). A caption that has not ended at the maximum length is ranked as it is, so there is
always a caption.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from captioner.errors import CaptionerError
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, PAD, START, UNKNOWN

if TYPE_CHECKING:
    from captioner.decoders.interface import Decoder
    from captioner.features import Features

NEVER_WRITTEN = (PAD, START, UNKNOWN)
IMPOSSIBLE = -math.inf
Bundle = TypeVar("Bundle", bound=tuple[Tensor, ...])


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One caption of one image, as word ids.

    `log_prob` is what the decoder itself gives to these words and to the end after them (a
    caption cut at the greatest length has no end); `score` is what captions are ranked by.
    """

    words: tuple[int, ...]  # without start and end, at least one
    log_prob: float
    score: float  # log_prob / tokens ** length_power, the end counted as a token
    attention: Tensor | None  # [words, positions] on the CPU: where each word looked


def search(
    decoder: "Decoder", features: "Features", config: SearchConfig | Sequence[SearchConfig]
) -> list[list[Hypothesis]]:
    """Return the best captions of every image, the best first.

    All images share one batch, also where each has a configuration of its own. An image gets fewer
    than `num_captions` only where the vocabulary allows no more; all differ. Equal scores are
    ordered by length, then by word id, so a result is repeatable. Other images of the batch change
    it in rounding alone.

    Raises:
        CaptionerError: the decoder's logits are not numbers, or allow no word.
    """
    count = len(features)
    configs = [config] * count if isinstance(config, SearchConfig) else list(config)
    assert len(configs) == count
    if count == 0:
        return []
    with torch.no_grad():
        return _search(decoder, features, configs)


class _Limits(NamedTuple):
    """The configurations of all images as tensors."""

    beam_size: Tensor  # [images, 1], as the next two
    num_captions: Tensor
    max_length: Tensor
    divisor: Tensor  # [images, tokens + 1], what a log-probability of so many tokens is divided by

    @classmethod
    def of(cls, configs: Sequence[SearchConfig], device: torch.device) -> "_Limits":
        def column(numbers: Iterable[int]) -> Tensor:
            return torch.tensor(list(numbers), device=device).unsqueeze(1)

        tokens = range(max(one.max_length for one in configs) + 1)
        divisor = [[float(max(n, 1) ** one.length_power) for n in tokens] for one in configs]
        return cls(
            beam_size=column(one.beam_size for one in configs),
            num_captions=column(one.num_captions for one in configs),
            max_length=column(one.max_length for one in configs),
            divisor=torch.tensor(divisor, device=device),
        )


def _search(
    decoder: "Decoder", features: "Features", configs: Sequence[SearchConfig]
) -> list[list[Hypothesis]]:
    images, beams = len(configs), max(one.beam_size for one in configs)
    steps = max(one.max_length for one in configs)
    last_steps = {one.max_length for one in configs}
    memory = decoder.prepare(features)
    state = decoder.start(memory)
    device = state[0].device
    limits = _Limits.of(configs, device)
    pool = _Pool.empty(images, beams, device)
    history = _History(steps, images, beams, device)
    rows = torch.arange(images, device=device)  # the image that each row of the batch belongs to
    words = torch.full((images, 1), START, device=device)
    live = torch.zeros(images, 1, device=device)  # log-probability of each unfinished caption
    places = torch.arange(2 * beams, device=device)

    for step in range(steps):
        logits, state, attention = decoder.step(words, state, memory)
        log_probs = logits.float().log_softmax(dim=-1)  # [B, K, V]
        log_probs[..., NEVER_WRITTEN] = IMPOSSIBLE
        if step == 0:
            log_probs[..., END] = IMPOSSIBLE
        values, parents, tokens = _best(live.unsqueeze(2) + log_probs, 2 * beams)

        # At most one candidate per beam is an end: the 2K best hold K that go on. An image whose
        # beam is narrower than the batch's finds its own 2K best among the first.
        is_end, is_beyond = tokens == END, places[: values.shape[1]] >= limits.beam_size
        ending = values.masked_fill(~is_end | is_beyond, IMPOSSIBLE)[:, :beams]
        score = ending / limits.divisor[:, step + 1 : step + 2]
        pool.add(rows, score, ending, step, parents[:, :beams])
        on = is_end.byte().argsort(dim=1, stable=True)[:, :beams]
        live = values.masked_fill(is_end, IMPOSSIBLE).gather(1, on)
        live.masked_fill_(is_beyond[:, : live.shape[1]], IMPOSSIBLE)
        words, parents = tokens.gather(1, on), parents.gather(1, on)
        history.write(step, rows, words, parents, attention)

        is_last = limits.max_length == step + 1  # [B, 1]
        if step + 1 in last_steps:
            cut = live.masked_fill(~is_last, IMPOSSIBLE)
            score = cut / limits.divisor[:, step + 1 : step + 2]
            pool.add(rows, score, cut, step + 1, places[: live.shape[1]].expand_as(live))
        if step + 1 == steps:
            break

        scores = pool.score[rows]
        # No caption has more tokens, and no log-probability grows: nothing can do better than this.
        bound = live.amax(dim=1, keepdim=True) / limits.divisor.gather(1, limits.max_length)
        is_full = scores.gather(1, limits.beam_size - 1) > IMPOSSIBLE
        is_best = scores.gather(1, limits.num_captions - 1) >= bound
        is_done = is_full | is_best | is_last
        done = int(is_done.sum())
        if done == len(rows):
            break
        state = select_captions(state, parents)
        live = live.masked_fill(is_done, IMPOSSIBLE)
        if 4 * done >= len(rows):
            going = (~is_done).squeeze(1).nonzero().squeeze(1)
            rows, live, words, limits = (
                rows[going],
                live[going],
                words[going],
                select_images(limits, going),
            )
            memory, state = select_images(memory, going), select_images(state, going)

    counts = [one.num_captions for one in configs]
    return _captions(pool, history, steps=step + 1, counts=counts)


def select_images(tensors: Bundle, images: Tensor) -> Bundle:
    """Return what a NamedTuple of tensors [B, ...] holds of some images: images [n]."""
    return type(tensors)(*(part.index_select(0, images) for part in tensors))


def select_captions(tensors: Bundle, parents: Tensor) -> Bundle:
    """Return tensors [B, K', ...] of the chosen rows of tensors [B, K, ...]: parents [B, K']."""
    images = torch.arange(len(parents), device=parents.device).unsqueeze(1)
    return type(tensors)(*(part[images, parents] for part in tensors))


def _best(totals: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values, beams and words of the `count` best candidates of every image, in order.

    Of equal candidates the one of the better beam, then of the lower word id comes first: `topk`
    leaves that open, so where there is a tie a stable sort of that image's does the work.

    Shapes:
        totals [images, beams, words] -> three of [images, at most count]
    """
    flat = totals.flatten(1)
    values, places = flat.topk(min(count + 1, flat.shape[1]), dim=1)
    is_tie = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > IMPOSSIBLE)
    values, places = values[:, :count], places[:, :count]
    tied = is_tie.any(dim=1).nonzero().squeeze(1)
    if len(tied):
        ordered = flat[tied].sort(dim=1, descending=True, stable=True)
        values[tied], places[tied] = (part[:, :count] for part in ordered)
    vocabulary_size = totals.shape[2]
    return values, places // vocabulary_size, places % vocabulary_size


class _Pool(NamedTuple):
    """The best finished captions of every image, the best first; each tensor is [images, beams]."""

    score: Tensor  # IMPOSSIBLE where there is none yet
    log_prob: Tensor
    length: Tensor  # words
    slot: Tensor  # the beam of step length - 1 that the last word stands in

    @classmethod
    def empty(cls, images: int, beams: int, device: torch.device) -> "_Pool":
        scores = torch.full((images, beams), IMPOSSIBLE, device=device)
        numbers = torch.zeros(images, beams, dtype=torch.int64, device=device)
        return cls(scores, scores.clone(), numbers, numbers.clone())

    def add(self, rows: Tensor, score: Tensor, log_prob: Tensor, length: int, slot: Tensor) -> None:
        """Let new captions [rows, some] compete with those of the same images."""
        new = (score, log_prob, torch.full_like(slot, length), slot)
        joined = [torch.cat((old[rows], part), 1) for old, part in zip(self, new, strict=True)]
        order = joined[0].argsort(dim=1, descending=True, stable=True)[:, : self.score.shape[1]]
        for old, part in zip(self, joined, strict=True):
            old[rows] = part.gather(1, order)


class _History:
    """What every beam chose at every step: the words, and the beams that they continue."""

    def __init__(self, steps: int, images: int, beams: int, device: torch.device) -> None:
        self.words = torch.zeros(steps, images, beams, dtype=torch.int64, device=device)
        self.parents = torch.zeros_like(self.words)
        self.attention: Tensor | None = None  # [T, B, K, P], K being the beam before the word

    def write(
        self, step: int, rows: Tensor, words: Tensor, parents: Tensor, attention: Tensor | None
    ) -> None:
        self.words[step, rows, : words.shape[1]] = words
        self.parents[step, rows, : parents.shape[1]] = parents
        if attention is not None:
            if self.attention is None:
                self.attention = attention.new_zeros(*self.words.shape, attention.shape[2])
            self.attention[step, rows, : attention.shape[1]] = attention

    def trace(self, slot: Tensor, length: Tensor, steps: int) -> tuple[Tensor, Tensor | None]:
        """Follow captions back from their last beams.

        Shapes:
            slot, length [images, captions]
            -> words [images, captions, steps], attention [images, captions, steps, positions]
        """
        words, attention = [], []
        for step in reversed(range(steps)):
            words.append(self.words[step].gather(1, slot))
            parent = self.parents[step].gather(1, slot)
            if self.attention is not None:
                looked = self.attention[step]
                index = parent.unsqueeze(2).expand(-1, -1, looked.shape[2])
                attention.append(looked.gather(1, index))
            slot = torch.where(step < length, parent, slot)
        words.reverse()
        attention.reverse()
        return torch.stack(words, 2), torch.stack(attention, 2) if attention else None


def _captions(
    pool: _Pool, history: _History, steps: int, counts: Sequence[int]
) -> list[list[Hypothesis]]:
    score, log_prob, length, slot = (part[:, : max(counts)] for part in pool)
    words, attention = history.trace(slot, length, steps)
    if attention is not None:
        attention = attention.float().cpu()
    rows = zip(score.tolist(), log_prob.tolist(), length.tolist(), words.tolist(), strict=True)
    result = []
    for image, row in enumerate(rows):
        hypotheses = []
        for k, (ranked_by, probability, end, ids) in enumerate(zip(*row, strict=True)):
            if ranked_by == IMPOSSIBLE or k == counts[image]:
                break
            looked = None if attention is None else attention[image, k, :end].clone()
            hypotheses.append(Hypothesis(tuple(ids[:end]), probability, ranked_by, looked))
        if not hypotheses or any(math.isnan(one.log_prob) for one in hypotheses):
            raise CaptionerError(
                "the decoder gives no word a probability: its logits are not numbers or its "
                "vocabulary is empty; use a checkpoint from before its training went wrong"
            )
        result.append(hypotheses)
    return result
