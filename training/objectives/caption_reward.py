"""CIDEr-D and BLEU-4 of many captions at once, on word ids, as a reward for training.

The end of a caption is a word of it: a caption that stops early then lacks the n-grams that end the
references, and one that was cut has no end. The document frequencies are those of the training
references. An n-gram is a sum of 64-bit numbers, one for each word at its place (Zobrist 1970), so
that counting and looking up are sorts and binary searches of numpy. Two different n-grams get the
same sum with probability 2^-64.

The scores are those of coco-caption (Vedantam et al. 2015, with the clipping and the length penalty
of CIDEr-D; Papineni et al. 2002, for each caption by itself).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioner.vocabulary import END, Vocabulary

ORDERS = 4  # n-grams of 1 to 4 words
_SIGMA = 6.0  # words; width of CIDEr-D's penalty for a difference in length
_TINY, _SMALL = 1e-15, 1e-9  # coco-caption's, where a caption shares no n-gram
_KEPT_IMAGES = 20_000  # whose counted references are kept, about 4 kB each
_COUNTED_TOGETHER = 4_000  # images, for the document frequencies
_NO_WORD = 2**40  # more than all words at all places
_ABSENT = np.iinfo(np.uint64).max

Captions = Sequence[Sequence[str]]  # of one image, each as its words


class NGrams(NamedTuple):
    """The n-grams of some captions, each once, with how often it stands there."""

    captions: np.ndarray
    orders: np.ndarray  # words - 1
    keys: np.ndarray
    counts: np.ndarray


class CaptionReward:
    """Scores captions against references, with weights from the references of a training set."""

    def __init__(self, images: Sequence[Captions], vocabulary: Vocabulary) -> None:
        """Count in how many images each n-gram stands; `images` holds the captions of each."""
        self._ids = {word: place for place, word in enumerate(vocabulary.words)}
        self._keys = np.empty(0, np.uint64)
        frequencies = np.empty(0)
        for start in range(0, len(images), _COUNTED_TOGETHER):
            some = images[start : start + _COUNTED_TOGETHER]
            words, lengths, image = self._encoded(some)
            found = ngrams(words, lengths)
            keys = _keys_by_group(image[found.captions], found.keys)
            self._keys, frequencies = _summed(
                np.concatenate((self._keys, keys)),
                np.concatenate((frequencies, np.ones(len(keys)))),
            )
        self._unseen = float(np.log(max(1, len(images))))  # as if one image had it
        self._weights = self._unseen - np.log(frequencies)
        self._counted: dict[Captions, _References] = {}

    def score(
        self,
        words: np.ndarray,
        lengths: np.ndarray,
        image: np.ndarray,
        references: Sequence[Captions],
        *,
        bleu: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return CIDEr-D of each caption, about 0 to 10, and, if asked, its BLEU-4, 0 to 1.

        Shapes:
            words [captions, T] ids, of which the first `lengths` [captions] count, the end among
            them; image [captions] whose references a caption is compared with
            -> [captions], [captions] or None
        """
        table = _Table.of(self._references(references))
        found = ngrams(words, lengths)
        own = found.counts * self._weights_of(found.keys)
        cells = found.captions * ORDERS + found.orders
        shape = (len(words), ORDERS)
        norms = _norms(cells, own, len(words))

        place, is_shared = table.find(found.keys, image[found.captions])
        cells, own, shared_counts = cells[is_shared], own[is_shared], found.counts[is_shared]
        theirs = table.weighted[place]
        products = np.minimum(own[:, None], theirs) * theirs
        totals = np.stack(
            [np.bincount(cells, of_one, len(words) * ORDERS) for of_one in products.T], 1
        ).reshape(*shape, -1)  # [captions, orders, R]
        both = norms[:, :, None] * table.norms[image].transpose(0, 2, 1)
        np.divide(totals, both, out=totals, where=both != 0)
        # coco-caption measures lengths in pairs of words.
        pairs, their_pairs = np.maximum(lengths - 1, 0), np.maximum(table.lengths[image] - 1, 0)
        penalty = np.exp(-((pairs[:, None] - their_pairs) ** 2) / (2 * _SIGMA**2))
        cider = (totals.mean(1) * penalty).sum(1) / table.captions[image] * 10.0
        if not bleu:
            return cider, None
        correct = np.bincount(
            cells, np.minimum(shared_counts, table.most[place]), len(words) * ORDERS
        ).reshape(shape)
        return cider, _bleu(correct, lengths, table.closest_length(lengths, image))

    def _weights_of(self, keys: np.ndarray) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), self._unseen)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._weights[place], self._unseen)

    def _references(self, images: Sequence[Captions]) -> list["_References"]:
        """Return the counted references of each image; those of earlier batches were kept."""
        names = [tuple(map(tuple, captions)) for captions in images]
        if new := [name for name in dict.fromkeys(names) if name not in self._counted]:
            if len(self._counted) + len(new) > _KEPT_IMAGES:
                self._counted.clear()
                new = list(dict.fromkeys(names))
            self._counted.update(zip(new, self._count(new), strict=True))
        return [self._counted[name] for name in names]

    def _count(self, images: Sequence[Captions]) -> list["_References"]:
        words, lengths, image = self._encoded(images)
        found = ngrams(words, lengths)
        weighted = found.counts * self._weights_of(found.keys)
        order = np.argsort(image[found.captions], kind="stable")
        first = np.searchsorted(image, np.arange(len(images) + 1))
        ends = np.searchsorted(image[found.captions[order]], np.arange(len(images) + 1))
        result = []
        for number in range(len(images)):
            here = order[ends[number] : ends[number + 1]]
            entries = NGrams(*(part[here] for part in found))
            entries = entries._replace(captions=entries.captions - first[number])
            own = lengths[first[number] : first[number + 1]]
            result.append(_References(entries, weighted[here], own))
        return result

    def _encoded(self, images: Sequence[Captions]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all captions [captions, T] as ids with the end, their lengths and their images.

        Words that the vocabulary lacks stay apart: each has an id of its own here.
        """
        ids = self._ids
        rows = [
            [*(ids.setdefault(word, len(ids)) for word in one), END]
            for captions in images
            for one in captions
        ]
        lengths = np.array([len(row) for row in rows])
        words = np.zeros((len(rows), lengths.max(initial=0)), np.int64)
        words[np.arange(words.shape[1]) < lengths[:, None]] = [one for row in rows for one in row]
        image = np.repeat(np.arange(len(images)), [len(captions) for captions in images])
        return words, lengths, image


class _References(NamedTuple):
    """The counted references of one image."""

    found: NGrams
    weighted: np.ndarray  # of each n-gram, its count times its weight
    lengths: np.ndarray  # [captions] words, the end among them


class _Table(NamedTuple):
    """The references of a batch of B images, R being the most captions of an image.

    U is the number of different n-grams of an image, summed over images.
    """

    keys: np.ndarray  # [U], sorted, each with its image's number in it
    weighted: np.ndarray  # [U, R]
    most: np.ndarray  # [U] the largest count in one caption
    norms: np.ndarray  # [B, R, orders]
    lengths: np.ndarray  # [B, R]
    captions: np.ndarray  # [B] how many of R there are

    @classmethod
    def of(cls, references: Sequence[_References]) -> "_Table":
        captions = np.array([len(one.lengths) for one in references])
        shape = (len(references), int(captions.max()))
        image = np.repeat(np.arange(len(references)), [len(one.weighted) for one in references])
        found = NGrams(*map(np.concatenate, zip(*(one.found for one in references), strict=True)))
        weighted = np.concatenate([one.weighted for one in references])
        keys, place = np.unique(found.keys + _of_image(image), return_inverse=True)
        by_caption = np.zeros((len(keys), shape[1]))
        by_caption[place, found.captions] = weighted
        most = np.zeros(len(keys))
        np.maximum.at(most, place, found.counts)
        cells = (image * shape[1] + found.captions) * ORDERS + found.orders
        lengths = np.zeros(shape, np.int64)
        lengths[np.arange(shape[1]) < captions[:, None]] = np.concatenate(
            [one.lengths for one in references]
        )
        norms = _norms(cells, weighted, shape[0] * shape[1]).reshape(*shape, ORDERS)
        return cls(keys, by_caption, most, norms, lengths, captions)

    def find(self, keys: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of those n-grams that the image's references hold, and which do."""
        wanted = keys + _of_image(image)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        is_there = self.keys[place] == wanted
        return place[is_there], is_there

    def closest_length(self, lengths: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the length of the reference nearest in length, the shorter one of two."""
        theirs = self.lengths[image]
        apart = np.abs(theirs - lengths[:, None]) * (theirs.max() + 1) + theirs
        is_padding = np.arange(theirs.shape[1]) >= self.captions[image][:, None]
        apart[is_padding] = np.iinfo(apart.dtype).max
        return np.take_along_axis(theirs, apart.argmin(1)[:, None], 1)[:, 0]


def ngrams(words: np.ndarray, lengths: np.ndarray) -> NGrams:
    """Return the n-grams of captions: words [captions, T], of which the first `lengths` count."""
    parts = []
    steps = words.shape[1]
    keys = np.zeros(words.shape, np.uint64)
    for order in range(min(ORDERS, steps)):
        width = steps - order
        keys = keys[:, :width] + _scattered(words[:, order:] * ORDERS + order)
        is_there = np.arange(width) < (lengths - order)[:, None]
        in_order = np.sort(np.where(is_there, keys, _ABSENT), axis=1)
        is_first = np.ones(in_order.shape, bool)
        is_first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
        first = np.flatnonzero(is_first)
        counts = np.diff(first, append=in_order.size)
        kept = in_order.ravel()[first]
        is_there = kept != _ABSENT
        first, kept, counts = first[is_there], kept[is_there], counts[is_there]
        parts.append(NGrams(first // width, np.full(len(first), order), kept, counts))
    return NGrams(*map(np.concatenate, zip(*parts, strict=True)))


def _norms(cells: np.ndarray, weighted: np.ndarray, captions: int) -> np.ndarray:
    """Return the norms [captions, orders] of n-grams whose caption and order `cells` tells."""
    return np.sqrt(np.bincount(cells, weighted**2, captions * ORDERS)).reshape(captions, ORDERS)


def _bleu(correct: np.ndarray, lengths: np.ndarray, closest: np.ndarray) -> np.ndarray:
    guessed = np.maximum(lengths[:, None] - np.arange(ORDERS), 0)
    bleu = np.prod((correct + _TINY) / (guessed + _SMALL), axis=1) ** (1 / ORDERS)
    ratio = (lengths + _TINY) / (closest + _SMALL)
    return bleu * np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)


def _scattered(numbers: np.ndarray) -> np.ndarray:
    """Return 64 bits for each number that look drawn at random (splitmix64, Steele et al. 2014)."""
    bits = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _of_image(image: np.ndarray) -> np.ndarray:
    """Return the part of a key that tells images apart: no word at any place has the same."""
    return _scattered(image + _NO_WORD)


def _keys_by_group(groups: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the keys of all groups, each once for every group that it stands in."""
    order = np.lexsort((groups, keys))
    groups, keys = groups[order], keys[order]
    is_new = np.ones(len(keys), bool)
    is_new[1:] = (keys[1:] != keys[:-1]) | (groups[1:] != groups[:-1])
    return keys[is_new]


def _summed(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every key once, sorted, and the sum of its values."""
    found, place = np.unique(keys, return_inverse=True)
    return found, np.bincount(place, values, len(found))
