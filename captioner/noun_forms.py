"""Words of captions that name the same thing: singular and plural, and words of one meaning."""

# Of words of one meaning, the word that stands for all of them. The page's modules know the same.
SYNONYMS = {
    "airplane": "plane",
    "bicycle": "bike",
    "cellphone": "phone",
    "couch": "sofa",
    "jet": "plane",
    "motorbike": "motorcycle",
    "refrigerator": "fridge",
    "telephone": "phone",
    "television": "tv",
}


def forms_of(word: str) -> frozenset[str]:
    """Return a noun and its synonyms, each with the singular and the plural that it may have."""
    forms: set[str] = set()
    for one in _numbers_of(word):
        stands_for_all = SYNONYMS.get(one, one)
        same = (name for name, other in SYNONYMS.items() if other == stands_for_all)
        forms |= {form for name in (one, stands_for_all, *same) for form in _numbers_of(name)}
    return frozenset(forms)


def _numbers_of(word: str) -> set[str]:
    forms = {word, f"{word}s", f"{word}es"}
    if word.endswith("y"):
        forms.add(f"{word[:-1]}ies")
    if word.endswith("s"):
        forms.add(word[:-1])
    if word.endswith("es"):
        forms.add(word[:-2])
    if word.endswith("ies"):
        forms.add(f"{word[:-3]}y")
    return forms
