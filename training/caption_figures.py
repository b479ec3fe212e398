"""Figures of a set of captions that no score shows: length, vocabulary, unfinished endings.

Training for a metric finds what the metric overlooks: captions of one length, of few words, or cut
where the likely n-grams end ("a man in a"). These figures stand beside the scores of every
validation, so that such a model shows.
"""

from collections.abc import Collection, Mapping, Sequence

_ENDING_NOTHING = """
a an the every his its their my your our and or but nor with without of in at for from to into onto
upon toward towards near between among against next during as while when where because if is are was
were be been being has have had who whose which that than
"""
# Of people's captions in Flickr8k that hold such a word, fewer than 1 % end with it. Not here are
# "on", "out", "up" and the like, which do end captions ("with a helmet on").
FUNCTION_WORDS = frozenset(_ENDING_NOTHING.split())


def caption_figures(captions: Collection[Sequence[str]]) -> dict[str, float]:
    """Return the mean number of words, the number of different words, and how many break off.

    `unfinished` is the share of captions whose last word is one of `FUNCTION_WORDS`, or that have
    no word.
    """
    count = max(1, len(captions))
    return {
        "caption_length": sum(map(len, captions)) / count,
        "words_used": float(len({word for words in captions for word in words})),
        "unfinished": sum(map(is_unfinished, captions)) / count,
    }


def is_unfinished(words: Sequence[str]) -> bool:
    """Return whether a caption breaks off."""
    return not words or words[-1] in FUNCTION_WORDS


def figures_line(figures: Mapping[str, float]) -> str:
    """Return the figures in words."""
    return (
        f"{figures['caption_length']:.1f} words a caption, {figures['words_used']:.0f} different, "
        f"{figures['unfinished']:.1%} unfinished"
    )
