"""Vocabulary of a captioner, and the rule that splits a caption into words.

A vocabulary holds four special tokens at fixed places, then every word that is frequent enough in
the training captions, the most frequent first. It is saved as JSON beside the weights that were
trained with it. `tokenize` follows the rule behind the tokens of Karpathy's `dataset_flickr8k.json`
(Karpathy and Fei-Fei 2015), whose files bring their own tokens.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from captioner.errors import DataError, OptionError
from captioner.files import read_json, write_json
from captioner.text import holds_half_character

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<start>", "<end>", "<unk>")

FORMAT = 1
KEPT_PUNCTUATION = "#()&="


class Vocabulary:
    """The known words in a fixed order: a word's place is its id."""

    __slots__ = ("_ids", "is_once", "repeatable", "words")

    def __init__(self, words: Iterable[str], repeatable: Iterable[str] | None = None) -> None:
        """Take all words in order, the special tokens included.

        `repeatable` are the words that a caption may hold twice; None stands for all of them.

        Raises:
            DataError: the special tokens do not come first, or a word is twice there or is none.
        """
        self.words: tuple[str, ...] = tuple(words)
        if self.words[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise DataError(
                f"a vocabulary begins with {' '.join(SPECIAL_TOKENS)}, this one with "
                f"{' '.join(map(str, self.words[: len(SPECIAL_TOKENS)])) or 'nothing'}; "
                "take the vocabulary.json that lies beside the weights"
            )
        for word in self.words:
            if not isinstance(word, str) or word_problem(word):
                raise DataError(
                    f"a vocabulary holds words without white space, this one holds {word!r}"
                )
        self._ids = {word: position for position, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"a vocabulary holds every word once, this one holds {twice!r} twice")
        self.repeatable = None if repeatable is None else frozenset(repeatable)
        if unknown := (self.repeatable or frozenset()) - self._ids.keys():
            raise DataError(
                f"{min(map(str, unknown))!r} may come twice in a caption and is not among the "
                "vocabulary's words; take the vocabulary.json that lies beside the weights"
            )
        self.is_once = self._words_that_come_once()

    @classmethod
    def build(cls, token_lists: Iterable[Sequence[str]], min_count: int = 5) -> "Vocabulary":
        """Return the words that occur at least `min_count` times, the most frequent first.

        Words of the same count stand in alphabetical order, so the result does not depend on the
        order of the captions.
        """
        if min_count < 1:
            raise OptionError(f"min_count is {min_count}; a word must occur at least 1 time")
        counts = Counter(word for tokens in token_lists for word in tokens)
        for special in SPECIAL_TOKENS:
            counts.pop(special, None)
        kept = [word for word, count in counts.items() if count >= min_count]
        if not kept:
            raise DataError(
                f"none of the {len(counts)} different words of the captions occurs "
                f"{min_count} times; lower --min-count or give more captions"
            )
        return cls((*SPECIAL_TOKENS, *sorted(kept, key=lambda word: (-counts[word], word))))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def _words_that_come_once(self) -> np.ndarray | None:
        """Return for each word whether a caption may hold it once, None where all may come again.

        Shapes:
            -> bool [words]
        """
        if self.repeatable is None:
            return None
        is_once = np.array([word not in self.repeatable for word in self.words])
        is_once[: len(SPECIAL_TOKENS)] = False
        return is_once

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Return one id per token; a word that is not known becomes `UNKNOWN`."""
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words up to the first `END`, without any special token."""
        words = []
        for word_id in ids:
            if word_id == END:
                break
            if not 0 <= word_id < len(self.words):
                raise DataError(
                    f"word id {word_id} is not in this vocabulary of {len(self)} words; "
                    "the ids come from another vocabulary"
                )
            if word_id >= len(SPECIAL_TOKENS):
                words.append(self.words[word_id])
        return words

    def coverage(self, token_lists: Iterable[Sequence[str]]) -> float:
        """Return the share of all tokens that are known words, 1.0 where there are no tokens."""
        known = [token in self._ids for tokens in token_lists for token in tokens]
        return sum(known) / len(known) if known else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a value that JSON can hold."""
        value: dict[str, Any] = {"format": FORMAT, "words": list(self.words)}
        if self.repeatable is not None:
            value["repeatable"] = [word for word in self.words if word in self.repeatable]
        return value

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """Return the vocabulary that `to_json` wrote.

        Raises:
            DataError: the value is something else, or of a later format.
        """
        if not isinstance(value, dict) or not isinstance(value.get("words"), list):
            raise DataError('a vocabulary in JSON is an object with a list "words"')
        if value.get("format") != FORMAT:
            raise DataError(
                f"the vocabulary has format {value.get('format')!r}, this program reads {FORMAT}"
            )
        repeatable = value.get("repeatable")
        if repeatable is not None and not isinstance(repeatable, list):
            raise DataError(f'"repeatable" of a vocabulary is a list of words, not {repeatable!r}')
        return cls(value["words"], repeatable)

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Return the vocabulary of a file that `save` wrote.

        Raises:
            DataError: the file is missing or holds something else; the message names it.
        """
        value = read_json(path, "vocabulary", DataError)
        try:
            return cls.from_json(value)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


@cache
def word_problem(token: str) -> str:
    """Return what keeps a token from being a word, such as "is empty"; "" where it is one."""
    if not token:
        return "is empty"
    if token.split() != [token]:
        return "holds white space"
    if holds_half_character(token):
        return "holds half of a character"
    return ""


def tokenize(text: str) -> list[str]:
    """Return the words of a caption in lower case.

    A hyphen separates words; other punctuation is removed, but `# ( ) & =` are kept.

    Source:
        Fitted to Karpathy's tokens for Flickr8k; the ASCII rule is carried over to the
        dashes and quotation marks of other alphabets.
    """
    return "".join(_written(character) for character in text.lower()).split()


@cache
def _written(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Pd", "Cc"):
        return " "
    if character in KEPT_PUNCTUATION:
        return character
    is_punctuation = category.startswith("P") or character in string.punctuation
    return "" if is_punctuation else character
