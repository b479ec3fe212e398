"""What a user asks captions to hold, to leave out and not to repeat, as word ids for the search.

`control_of` turns the words of a `SearchConfig` into ids of a model's vocabulary; a word that the
vocabulary lacks is refused, for no caption can hold it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from captioner.errors import OptionError
from captioner.noun_forms import forms_of
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, Vocabulary, tokenize

_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Control:
    """The demands on one image's captions; as a `Constraint` of the search it knows all but one.

    Words that must be there need a search of their own (`control_search`): this alone vetoes.
    """

    include: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    no_repeat_ngram: int = 0
    is_once: np.ndarray | None = field(default=None, compare=False)
    """bool [vocabulary], which words come at most once."""
    attribute_threshold: float = field(default=1.0, compare=False)
    vocabulary: Vocabulary | None = field(default=None, compare=False)

    @property
    def wanted(self) -> Sequence[int]:
        return self.include

    @property
    def vetoes(self) -> bool:
        """Whether there are words that may not be written."""
        return bool(self.exclude or self.no_repeat_ngram or self.is_once is not None)

    def must_name(self, word: int, probability: float, caption: Sequence[int]) -> bool:
        """Return whether an attribute of this probability has to be in a caption that lacks it.

        Its plural, its singular and words of the same meaning count as the word.
        """
        if probability < self.attribute_threshold or self.attribute_threshold == 1:
            return False
        if self.vocabulary is None or word in self.exclude:
            return False
        forms = forms_of(self.vocabulary.words[word])
        return forms.isdisjoint(self.vocabulary.words[one] for one in caption)

    def spare(self, length: int) -> int:
        """Return how many candidates after a caption of `length` words are vetoed at most."""
        # Each word of a caption ends at most one n-gram, whose last word may then not come again.
        is_remembered = self.no_repeat_ngram or self.is_once is not None
        return len(self.exclude) + (length if is_remembered else 0)

    def allows(self, captions: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return which candidates may be written: captions [K, n], words [K, C] -> bool [K, C]."""
        allowed = np.ones(words.shape, np.bool_)
        if self.exclude:
            allowed &= ~np.isin(words, self.exclude)
        if self.is_once is not None and captions.shape[1]:
            is_held = (words[:, :, None] == captions[:, None, :]).any(axis=2)
            allowed &= ~(is_held & self.is_once[words])
        if self.no_repeat_ngram:
            for row, caption in enumerate(captions.tolist()):
                banned = self.banned_after(caption)
                if banned:
                    allowed[row] &= ~np.isin(words[row], banned)
        return allowed

    def banned_after(self, caption: Sequence[int]) -> list[int]:
        """Return the words that would end an n-gram that the caption holds already."""
        size = self.no_repeat_ngram
        before = list(caption[len(caption) - size + 1 :]) if size > 1 else []
        return [
            caption[at + size - 1]
            for at in range(len(caption) - size + 1)
            if list(caption[at : at + size - 1]) == before
        ]


def control_of(config: SearchConfig, vocabulary: Vocabulary) -> Control | None:
    """Return the demands of a configuration, None where there are none.

    A threshold for attributes is a demand, though most models have none.

    Raises:
        OptionError: a word is unknown to the model or is none, or is to be there and not to be.
    """
    is_once = None if config.repeat_words else vocabulary.is_once
    threshold = config.attribute_threshold
    words = config.include or config.exclude
    if not (words or config.no_repeat_ngram or is_once is not None or threshold < 1):
        return None
    include = _ids(config.label("include"), config.include, vocabulary)
    exclude = _ids(config.label("exclude"), config.exclude, vocabulary)
    if both := set(include) & set(exclude):
        word = vocabulary.words[min(both)]
        raise OptionError(
            f"{config.label('include')} and {config.label('exclude')} both hold {word!r}; "
            "leave it out of one of them"
        )
    return Control(include, exclude, config.no_repeat_ngram, is_once, threshold, vocabulary)


def problem_word(config: SearchConfig, vocabulary: Vocabulary) -> tuple[str, str] | None:
    """Return the option whose words this model cannot follow, and why; None if it can."""
    try:
        control_of(config, vocabulary)
    except OptionError as problem:
        return ("exclude" if str(problem).startswith("exclude") else "include"), str(problem)
    return None


def _ids(option: str, words: Iterable[str], vocabulary: Vocabulary) -> tuple[int, ...]:
    found = []
    for text in words:
        tokens = tokenize(text)
        shown = f"{option} holds {text[:_SHOWN_CHARACTERS]!r}"
        if len(tokens) != 1:
            raise OptionError(f"{shown}; give single words")
        if tokens[0] not in vocabulary:
            raise OptionError(
                f"{shown}, which is not among the {len(vocabulary):,} words that this model knows; "
                "give another word"
            )
        found += vocabulary.encode(tokens)
    assert END not in found, "no token of a text is a special one"
    return tuple(dict.fromkeys(found))
