"""Grammar of the built-in sample: its captions, and the check whether a caption names its scene.

Every caption names every shape of its scene by colour and kind, so any caption can be checked. The
five captions of one picture differ in wording, order and in what they say of size and place. All
statements are true of the picture.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from captioner.data.shapes_scenes import COLOURS, KINDS, SINGLE_PLACES, Scene, Shape

CAPTIONS_PER_IMAGE = 5

# {a}, {b} and {c} are the shapes in the order of the layout's places, see shapes_scenes.LAYOUTS.
SINGLE = (
    "{a} {place}",
    "there is {a} {place}",
    "{place} there is {a}",
    "{place} is {a}",
    "the picture shows {a}",
    "only {a}",
)
SEVERAL: Mapping[str, tuple[str, ...]] = {
    "row": (
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} is left of {b}",
        "{b} is right of {a}",
        "{a} on the left and {b} on the right",
        "there is {a} next to {b}",
        "{a} and {b} side by side",
    ),
    "column": (
        "{a} above {b}",
        "{b} below {a}",
        "{a} is above {b}",
        "{b} is below {a}",
        "{a} at the top and {b} at the bottom",
        "there is {a} over {b}",
        "{b} under {a}",
    ),
    "pair above": (
        "{a} and {b} above {c}",
        "{c} below {a} and {b}",
        "{a} next to {b} and {c} at the bottom",
        "there is {c} under {a} and {b}",
        "the picture shows {a} and {b} over {c}",
    ),
    "pair below": (
        "{c} above {a} and {b}",
        "{a} and {b} below {c}",
        "{a} next to {b} and {c} at the top",
        "there is {c} over {a} and {b}",
        "the picture shows {a} and {b} under {c}",
    ),
    "pair left": (
        "{a} and {b} to the left of {c}",
        "{c} to the right of {a} and {b}",
        "{a} above {b} and {c} on the right",
        "there is {c} right of {a} and {b}",
        "the picture shows {b} below {a} and {c} on the right",
    ),
    "pair right": (
        "{c} to the left of {a} and {b}",
        "{a} and {b} to the right of {c}",
        "{a} above {b} and {c} on the left",
        "there is {c} left of {a} and {b}",
        "the picture shows {b} below {a} and {c} on the left",
    ),
}


def describe(scene: Scene, generator: np.random.Generator) -> list[str]:
    """Return five different captions of the scene, as sentences."""
    captions: dict[str, None] = {}
    templates = SINGLE if scene.layout in SINGLE_PLACES else SEVERAL[scene.layout]
    for number in generator.permutation(len(templates))[:CAPTIONS_PER_IMAGE]:
        with_size = bool(generator.integers(2))
        names = [_noun_phrase(shape, with_size) for shape in scene.shapes]
        slots = dict(zip("abc", names, strict=False), place=scene.layout)
        captions[_as_sentence(templates[number].format(**slots))] = None
    return list(captions)


def named_rightly(tokens: Sequence[str], scene: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a caption names colour and kind of every shape, and of nothing else.

    `scene` is what `Scene.to_json` gave: a list with "colour" and "kind" of each shape. A shape is
    named by a colour directly before a kind; naming one twice, a colour or kind on its own or in
    the plural is not right. What is said of size and place is not judged.
    """
    named = Counter(_named_shapes(tokens))
    return named == Counter((shape["colour"], shape["kind"]) for shape in scene)


def _named_shapes(tokens: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    colour: str | None = None
    for token in tokens:
        if token in _KIND_WORDS:
            yield colour, token
            colour = None
            continue
        if colour is not None:
            yield colour, None
        colour = token if token in COLOURS else None
    if colour is not None:
        yield colour, None


_KIND_WORDS = frozenset(KINDS) | {kind + ending for kind in KINDS for ending in ("s", "es")}


def _noun_phrase(shape: Shape, with_size: bool) -> str:
    words = f"{shape.size} {shape.colour}" if with_size else shape.colour
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} {shape.kind}"


def _as_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
