"""Caption words for ImageNet's classes, from a table that scripts/make_imagenet_words.py made."""

from collections.abc import Container
from functools import cache
from importlib.resources import files

CLASSES = 1000


@cache
def candidate_words() -> tuple[tuple[str, ...], ...]:
    """Return words for each class in the usual order of ImageNet's classes, the best first."""
    table = files("captioner.attributes").joinpath("imagenet_words.tsv").read_text("utf-8")
    return tuple(tuple(line.split("\t")[3].split()) for line in table.splitlines()[1:])


def words_of_classes(vocabulary: Container[str]) -> list[str | None]:
    """Return the best known word for each class, None where no word for it is known."""
    return [
        next((word for word in words if word in vocabulary), None) for words in candidate_words()
    ]
