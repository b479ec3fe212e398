"""Options of a search for captions, declared once for the library, its commands and the service.

Importing this does not import torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict

from captioner.errors import OptionError
from captioner.options import ABOVE_ZERO, NOT_NEGATIVE, Options, Range, at_least, between, option

MAX_CAPTIONS = 10_000  # of an image, side by side
MAX_WORDS = 1000  # of a caption
# What a request to a service may ask at most. A program decides for itself.
MAX_BEAM_SIZE = 10
MAX_LENGTH = 200  # words
MAX_EXCLUDED = 100  # words

MAX_INCLUDED = 4  # words; each doubles the captions that are searched side by side
_ABOVE_ZERO_TO_ONE = Range("it must lie above 0 and be at most 1", lambda x: 0 < x <= 1, high=1)
_OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")


class ControlOptions(TypedDict, total=False):
    """The options of `SearchConfig` that most searches leave as they are; see there."""

    include: Sequence[str]
    exclude: Sequence[str]
    no_repeat_ngram: int
    repeat_words: bool
    attribute_threshold: float
    diverse_groups: int
    diversity: float
    sample: bool
    temperature: float
    top_k: int
    top_p: float
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Options):
    is_named_by_flags = False

    beam_size: int = option(
        3,
        "captions searched side by side; 1 is greedy search",
        metavar="N",
        within=between(1, MAX_CAPTIONS, "a beam holds 1 caption (greedy search) to 10,000"),
    )
    num_captions: int = option(
        1,
        "captions returned for each photograph, the best first; at most as many as the beam holds",
        metavar="K",
        within=between(1, MAX_CAPTIONS, "ask for 1 caption to 10,000"),
    )
    max_length: int = option(
        20,
        "most words of a caption",
        metavar="N",
        within=between(1, MAX_WORDS, "a caption has room for 1 word to 1,000"),
    )
    length_power: float = option(
        0.7,  # scored best on validation photographs
        "a caption's log-probability is divided by its number of tokens to this power",
        metavar="X",
        within=between(0, 10, "give 0 (no normalisation) to 10, 1 is the mean per token"),
    )

    include: tuple[str, ...] = option((), "words that every caption has to hold", metavar="WORD")
    exclude: tuple[str, ...] = option((), "words that no caption may hold", metavar="WORD")
    no_repeat_ngram: int = option(
        0,
        "so many words in a row never come twice in a caption; 0 leaves that free",
        metavar="N",
        within=NOT_NEGATIVE,
    )
    repeat_words: bool = option(
        False,
        "let words of content come twice in a caption; without it, names of things, of what they "
        "do and of how they look come once, if the model knows which words these are",
    )
    attribute_threshold: float = option(
        0.7,
        "probability from which the most probable attribute has to be named, where the encoder's "
        "own classifier found it; 1 leaves captions free",
        metavar="X",
        within=_ABOVE_ZERO_TO_ONE,
    )
    diverse_groups: int = option(
        1,
        "parts of the beam that are kept from choosing the same words; the best captions of "
        "different parts are returned",
        metavar="N",
        within=at_least(1, "1 is the whole beam"),
    )
    diversity: float = option(
        0.5,
        "what a word loses in log-probability for each choice of it by an earlier part of the beam",
        metavar="X",
        within=NOT_NEGATIVE,
    )
    sample: bool = option(False, "draw captions by their probability instead of searching for them")
    temperature: float = option(
        1.0,
        "of a draw: log-probabilities are divided by it, so below 1 likely words are likelier",
        metavar="X",
        within=ABOVE_ZERO,
    )
    top_k: int = option(
        0, "draw among so many most probable words; 0 is all", metavar="N", within=NOT_NEGATIVE
    )
    top_p: float = option(
        1.0,
        "draw among the fewest most probable words that together have this probability",
        metavar="X",
        within=_ABOVE_ZERO_TO_ONE,
    )
    seed: int | None = option(
        None, "with the same seed, the same captions are drawn", metavar="N", within=NOT_NEGATIVE
    )

    def contradictions(self) -> Iterable[str]:
        label = self.label
        if self.num_captions > self.beam_size and not self.sample:  # draws need no beam
            yield (
                f"{label('num_captions')} is {self.num_captions} and {label('beam_size')} "
                f"{self.beam_size}; ask for at most as many captions as the beam holds"
            )
        if len(self.include) > MAX_INCLUDED:
            yield (
                f"{label('include')} holds {len(self.include)} words; a caption can be asked to "
                f"hold at most {MAX_INCLUDED}"
            )
        elif len(self.include) > self.max_length:
            yield (
                f"{label('include')} holds {len(self.include)} words and {label('max_length')} is "
                f"{self.max_length}; allow a caption more words"
            )
        if self.beam_size % self.diverse_groups:
            yield (
                f"{label('beam_size')} is {self.beam_size} and {label('diverse_groups')} "
                f"{self.diverse_groups}; give a beam that can be cut into so many equal parts"
            )
        defaults = type(self).__dataclass_fields__
        if self.diverse_groups == 1 and self.diversity != defaults["diversity"].default:
            yield (
                f"{label('diversity')} is {self.diversity} without {label('diverse_groups')}; it "
                "acts between parts of the beam"
            )
        sample = label("sample")
        if self.sample and (self.include or self.diverse_groups > 1):
            yield (
                f"{sample} does not go with "
                f"{label('include' if self.include else 'diverse_groups')}, which is a search; "
                "leave one of them out"
            )
        for name in _OF_SAMPLING:
            value = getattr(self, name)
            if not self.sample and value != defaults[name].default:
                yield (
                    f"{label(name)} is {value} without {sample}; it acts on captions that are "
                    "drawn alone"
                )

    @classmethod
    def for_captions(
        cls, num_captions: int = 1, beam_size: int | None = None, **others: Any
    ) -> Self:
        """Return a configuration for so many captions.

        Without `beam_size` the beam is as wide as they need, and at least the default. Words may
        stand between commas.
        """
        if beam_size is None:
            beam_size, groups = cls.beam_size, others.get("diverse_groups", 1)
            if isinstance(num_captions, int) and isinstance(groups, int):  # else it is refused
                groups = max(1, groups)
                beam_size = -(-max(num_captions, beam_size) // groups) * groups
        for name in others.keys() & {"include", "exclude"}:
            others[name] = separate_words(cls.label(name), others[name])
        return cls(beam_size=beam_size, num_captions=num_captions, **others)


def separate_words(label: str, given: Any) -> tuple[str, ...]:
    """Return words one by one, some of which stand between commas.

    Raises:
        OptionError: they are no list of texts, or a list that holds no word.
    """
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    texts = list(given) if is_list else []
    if not is_list or not all(isinstance(text, str) for text in texts):
        raise OptionError(f"{label} is {given!r:.80}; give a list of words")
    words = tuple(word.strip() for text in texts for word in text.split(",") if word.strip())
    if texts and not words:
        raise OptionError(
            f"{label} is {texts!r:.80}, which holds no word; give one or leave it out"
        )
    return words


class SearchFlags(SearchConfig):
    """The same options of a command line: messages call them by their flags."""

    is_named_by_flags = True
