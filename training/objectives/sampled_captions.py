"""Captions drawn from a decoder word by word, all samples of all images at once, in PyTorch.

The words are drawn from the softmax over those that captions are written with: the special tokens
but the end never, and the end not as the first word. `allowed_log_probs` gives that distribution,
so that a training pass over drawn captions differentiates what they were drawn from.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from captioner.decoders import Decoder
from captioner.features import Features
from captioner.vocabulary import END, PAD, START, UNKNOWN
from training.distributed import ALONE, WHOLE, Portion, Ranks

_NEVER_DRAWN = [PAD, START, UNKNOWN]


class SampledCaptions(NamedTuple):
    """K captions of each of B images; what follows the end is END too."""

    words: np.ndarray  # [B, K, T]
    lengths: np.ndarray  # [B, K] words, the end among them where the caption has one
    is_ended: np.ndarray  # [B, K] false where the greatest length cut it

    def first(self, count: int) -> Self:
        """Return the first captions of every image."""
        return type(self)(*(part[:, :count] for part in self))

    def token_lists(self) -> list[list[list[int]]]:
        """Return the words of each caption of each image, without the end."""
        without_end = self.lengths - self.is_ended
        return [
            [row[:count].tolist() for row, count in zip(rows, counts, strict=True)]
            for rows, counts in zip(self.words, without_end, strict=True)
        ]


def sample_captions(
    decoder: Decoder,
    features: Features,
    samples: int,
    *,
    max_length: int,
    generator: torch.Generator,
    with_greedy: bool = False,
    product_dtype: torch.dtype | None = None,
    portion: Portion = WHOLE,
    ranks: Ranks = ALONE,
) -> SampledCaptions:
    """Draw captions without gradient; `with_greedy` adds the greedy one as the last of an image.

    A caption has at most `max_length` words before its end. Dropout acts as the decoder's mode
    says. Of several processes with the same generator, each draws for the images of all until no
    caption of any goes on: what an image gets is the same whichever process holds it.
    """
    images, rows = len(features), samples + with_greedy
    before = portion.images_before
    all_images = images if portion.images is None else portion.images

    def uniform() -> Tensor:
        numbers = torch.rand(
            all_images, samples, dtype=torch.float64, generator=generator, device=device
        )
        return numbers[before : before + images]

    kind, is_mixed = generator.device.type, product_dtype is not None
    with torch.no_grad(), torch.autocast(kind, product_dtype, enabled=is_mixed):
        memory = decoder.prepare(features)
        start = decoder.start(memory)
        device = start[0].device
        state = type(start)(*(part.expand(-1, rows, *part.shape[2:]) for part in start))
        words = torch.full((images, rows), START, device=device)
        is_ended = torch.zeros(images, rows, dtype=torch.bool, device=device)
        going = torch.arange(images, device=device)  # images with a caption that has not ended
        drawn = torch.full((max_length, images, rows), END, device=device)
        for step in range(max_length):
            logits, state, _ = decoder.step(words, state, memory)
            forbid(logits, is_first=step == 0)
            words = _draw(logits[:, :samples], uniform()[going])
            if with_greedy:
                words = torch.cat((words, logits[:, samples:].argmax(2)), 1)
            words = words.masked_fill(is_ended, END)
            drawn[step, going] = words
            is_ended = is_ended | (words == END)
            is_done = is_ended.all(1)
            done = int(is_done.sum())
            if done == len(going):
                break
            if 4 * done >= len(going):
                kept = (~is_done).nonzero().squeeze(1)
                going, words, is_ended = going[kept], words[kept], is_ended[kept]
                memory, state = (
                    type(one)(*(part[kept] for part in one)) for one in (memory, state)
                )
        for _ in range(ranks.most(step + 1) - step - 1):
            uniform()
    found = drawn[: step + 1].permute(1, 2, 0).cpu().numpy()
    is_end = found == END
    was_ended = is_end.any(2)
    lengths = np.where(was_ended, is_end.argmax(2) + 1, found.shape[2])
    return SampledCaptions(found, lengths, was_ended)


def forbid(logits: Tensor, *, is_first: bool) -> None:
    """Make impossible, in place, what no caption is written with: logits [..., V]."""
    logits[..., _NEVER_DRAWN] = -torch.inf
    if is_first:
        logits[..., END] = -torch.inf


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw a word by each row's probabilities, from numbers in [0, 1).

    Shapes:
        logits [B, K, V], uniform [B, K] -> [B, K]
    """
    cumulative = logits.softmax(2, dtype=torch.float32).cumsum(2, dtype=torch.float64)
    total = cumulative[..., -1:].contiguous()
    target = uniform.unsqueeze(2) * total
    words = torch.searchsorted(cumulative, target, right=True).squeeze(2)
    # A product that is rounded up to the whole sum would lie behind the last possible word.
    last = torch.searchsorted(cumulative, total).squeeze(2)
    return torch.minimum(words, last)
