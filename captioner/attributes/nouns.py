"""Nouns of captions as attributes: the plural counts as the singular."""

from collections.abc import Container, Mapping, Sequence

IRREGULAR: Mapping[str, str] = {
    "calves": "calf",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "wives": "wife",
    "women": "woman",
}


def attribute_of(word: str, attributes: Container[str]) -> str | None:
    """Return the attribute that a caption's word names, None where it names none."""
    return next((form for form in (word, *_singulars(word)) if form in attributes), None)


def attributes_in(words: Sequence[str], attributes: Container[str]) -> list[str]:
    """Return the attributes that a caption names, each once, in its order."""
    found = (attribute_of(word, attributes) for word in words)
    return list(dict.fromkeys(one for one in found if one is not None))


def _singulars(word: str) -> list[str]:
    if word in IRREGULAR:
        return [IRREGULAR[word]]
    forms = []
    if word.endswith("ies") and len(word) > 4:
        forms.append(word[:-3] + "y")
    if word.endswith("es") and len(word) > 3:
        forms.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss") and len(word) > 2:
        forms.insert(0, word[:-1])
    return forms
