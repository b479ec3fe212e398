"""Multiple instance learning of caption words on the grid of features, before a decoder is trained.

A photograph whose captions name a word shows it at some position, and which one nobody said. The
probability that it is there is a noisy-or over the positions (Fang et al. 2015, section 3.1), and
its cross-entropy is minimised over all words at once. The weights kept are those of the epoch with
the best mean average precision on photographs that were not learned from.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.attributes import InstanceDetector
from captioner.attributes.detector import noisy_or
from captioner.attributes.nouns import attributes_in
from captioner.data.karpathy import CaptionedImage
from captioner.errors import DataError
from captioner.vocabulary import Vocabulary
from training.feature_sources import ImageSource
from training.randomness import derived_generator

# Words that say nothing of what is seen.
_CLOSED_CLASS = """
    a about above across after against all along alongside also am among an and another any are
    around as at away back be because been before behind being below beneath beside between
    both but by can could do does doing down each either for from front get gets getting go
    goes going had has have having he her hers herself him himself his how i in inside into is
    it its itself just like middle more most much near next no not of off on one onto or other
    others out outside over own part past piece several she side so some someone something such
    that the their theirs them themselves there these they thing things this those through to
    together top toward towards two three four under up upon very was way we well were what
    when where which while who whose will with within without you your lot lots bunch group
    couple various different many few image picture photo photograph background foreground view
    scene looking sitting standing walking during whilst
"""
_BATCH = 64  # images
_LR = 1e-3
_DECAY = 1e-4
_FEWEST = 3  # photographs of val that name a word whose precision counts


@dataclass(frozen=True)
class Seen:
    """Photographs, where their features come from, and which of the words their captions name."""

    indices: list[int]
    source: ImageSource
    labels: Tensor  # [images, A], 1 where a caption names the word

    def batches(self, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield grids [B, P, D] and labels [B, A] of the photographs in this order."""
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            place_of = {self.indices[place]: place for place in places}
            read = self.source.read(list(place_of))
            if read.indices:
                with torch.no_grad():
                    grid = self.source.features(read).grid
                rows = [place_of[index] for index in read.indices]
                yield grid, self.labels[rows].to(grid.device)


def attribute_words(
    images: Sequence[CaptionedImage], vocabulary: Vocabulary, count: int
) -> list[str]:
    """Return the content words that most photographs' captions name, the most frequent first."""
    empty = frozenset(_CLOSED_CLASS.split())
    named = Counter(
        word
        for image in images
        for word in {word for tokens in image.tokens for word in tokens}
        if word in vocabulary and len(word) > 1 and word not in empty
    )
    # A plural is left to its singular, where that is a word of its own.
    singulars = [word for word in named if attributes_in([word], named.keys() - {word}) == []]
    return sorted(singulars, key=lambda word: (-named[word], word))[:count]


def seen(images: Sequence[CaptionedImage], source: ImageSource, words: Sequence[str]) -> Seen:
    """Return the photographs that have a caption, with what their captions name."""
    places = {word: place for place, word in enumerate(words)}
    indices = [index for index, image in enumerate(images) if any(image.tokens)]
    labels = torch.zeros(len(indices), len(words))
    for row, index in enumerate(indices):
        for tokens in images[index].tokens:
            labels[row, [places[word] for word in attributes_in(tokens, places)]] = 1.0
    return Seen(indices, source, labels)


def fit(
    detector: InstanceDetector,
    words: Sequence[str],
    train: Seen,
    val: Seen,
    vocabulary: Vocabulary,
    *,
    epochs: int,
    seed: int,
    announce: Callable[[str], None],
) -> float:
    """Let the detector learn the words, and return its mean average precision on `val`."""
    first = next(train.batches(range(len(train.indices))), None)  # one may be unreadable
    if first is None:
        raise DataError("no training image can be read, so no attribute can be learned of any")
    grid, _ = first
    generator = derived_generator(seed, "instances")
    share = train.labels.mean(0).clamp(1e-5, 0.99).to(grid.device)
    at_a_position = 1.0 - (1.0 - share) ** (1.0 / grid.shape[1])
    weight = torch.zeros(len(words), grid.shape[2], device=grid.device, requires_grad=True)
    bias = at_a_position.logit().requires_grad_()
    optimiser = torch.optim.AdamW([weight, bias], lr=_LR, weight_decay=_DECAY)
    ids = vocabulary.encode(list(words))
    best = -1.0
    for epoch in range(epochs):
        order = torch.randperm(len(train.indices), generator=generator).tolist()
        for group in optimiser.param_groups:
            group["lr"] = _LR * (1.0 - epoch / epochs)
        for grid, labels in train.batches(order):
            optimiser.zero_grad()
            _loss(grid @ weight.t() + bias, labels).backward()
            optimiser.step()
        previous = (detector.weight, detector.bias)
        detector.take(weight, bias, ids)
        found = mean_average_precision(detector, val)
        announce(
            f"attributes: epoch {epoch + 1}/{epochs} of instance learning, mean average precision "
            f"{found:.4f} on val"
        )
        if found <= best:
            detector.take(*previous, ids)
            break
        best = found
    return best


@torch.no_grad()
def mean_average_precision(detector: InstanceDetector, val: Seen) -> float:
    """Return the mean over words of the average precision, where val names a word often enough."""
    scores, labels = [], []
    for grid, of_batch in val.batches(range(len(val.indices))):
        scores.append(detector(grid))
        labels.append(of_batch)
    return _mean_average_precision(torch.cat(scores), torch.cat(labels))


def _mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the mean average precision of scores [images, A] against labels [images, A]."""
    enough = labels.sum(0) >= _FEWEST
    if not enough.any():
        return 0.0
    order = scores[:, enough].argsort(dim=0, descending=True, stable=True)
    hits = labels[:, enough].gather(0, order)
    ranks = torch.arange(1, len(hits) + 1, device=hits.device).unsqueeze(1)
    precision = hits.cumsum(0) / ranks
    return float(((precision * hits).sum(0) / hits.sum(0)).mean())


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of noisy-or [B, P, A] against labels [B, A], a sum over words."""
    # log(1 - p) is the sum of log-probabilities of absence, which no rounding can spoil.
    absent = -torch.nn.functional.softplus(logits).sum(1)
    present = noisy_or(logits).clamp_min(1e-6).log()
    return -(labels * present + (1.0 - labels) * absent).sum(1).mean()
