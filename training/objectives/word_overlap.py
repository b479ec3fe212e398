"""METEOR's mean of precision and recall over the words that captions share, as a reward.

CIDEr-D alone makes captions short: what a longer one names rightly gains less than its n-grams
lose. METEOR counts what is left out about six times as much as what is too much. This is its
parametrised mean F (Denkowski and Lavie 2014, section 2, with the weights for English) where words
match that are equal; stems, synonyms and the penalty for order are not in it.
"""

from collections.abc import Sequence

import numpy as np

from captioner.vocabulary import END, Vocabulary
from training.caption_figures import FUNCTION_WORDS
from training.objectives.caption_reward import Captions

ALPHA = 0.85  # weight of recall in the harmonic mean
DELTA = 0.75  # weight of a content word; a function word has the rest
_NO_WORD = -1


class WordOverlap:
    """Scores captions against references by the words that both hold."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ids = {word: place for place, word in enumerate(vocabulary.words)}
        self._weights = np.array([_weight(word) for word in vocabulary.words])
        self._weights[END] = 0.0

    def score(
        self,
        words: np.ndarray,
        lengths: np.ndarray,
        image: np.ndarray,
        references: Sequence[Captions],
    ) -> np.ndarray:
        """Return the highest F, 0 to 1, of each caption with one of its image's references.

        Shapes:
            words [captions, T] ids, of which the first `lengths` [captions] count; image [captions]
            whose references a caption is compared with -> [captions]
        """
        theirs, their_weights = self._encoded(references)
        words = np.where(np.arange(words.shape[1]) < lengths[:, None], words, _NO_WORD)
        weights = np.where(words == _NO_WORD, 0.0, self._weights[words])
        # A word that comes for the k-th time is matched where a reference holds it k times.
        is_same = words[:, :, None] == words[:, None, :]
        times = np.tril(is_same).sum(2)  # [captions, T]
        held = (words[:, None, :, None] == theirs[image][:, :, None, :]).sum(3)  # [captions, R, T]
        matched = ((held >= times[:, None]) * weights[:, None]).sum(2)
        precision = _divided(matched, weights.sum(1)[:, None])
        recall = _divided(matched, their_weights[image])
        mean = _divided(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
        return np.asarray(mean.max(1))

    def _encoded(self, images: Sequence[Captions]) -> tuple[np.ndarray, np.ndarray]:
        """Return the references [B, R, T] as ids, filled up with none, and their weights [B, R]."""
        most = max(len(captions) for captions in images)
        longest = max((len(one) for captions in images for one in captions), default=0)
        ids = np.full((len(images), most, longest), _NO_WORD)
        weights = np.zeros((len(images), most))
        for row, captions in enumerate(images):
            for place, one in enumerate(captions):
                # A word that the vocabulary lacks matches none, and counts in the length.
                ids[row, place, : len(one)] = [self._ids.get(word, _NO_WORD - 1) for word in one]
                weights[row, place] = sum(map(_weight, one))
        return ids, weights


def _weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA


def _divided(numbers: np.ndarray, by: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(numbers.shape, by.shape)
    return np.divide(numbers, by, out=np.zeros(shape), where=by != 0)
