"""Scenes of the built-in sample: their shapes, where they stand, and what captions say of them.

A scene has one to three shapes, no two of the same colour and kind, on places far enough apart
that "left of" and "above" are plainly true. Lengths and positions are fractions of the picture's
side, x from the left and y from the top.

Every caption names every shape of its scene by colour and kind, so any caption can be checked. The
five captions of one picture differ in wording, order and in what they say of size and place. All
statements are true of the picture.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (208, 32, 38),
    "orange": (250, 140, 20),
    "yellow": (250, 228, 50),
    "green": (30, 150, 62),
    "blue": (36, 84, 214),
    "purple": (132, 44, 168),
    "white": (250, 250, 250),
    "black": (22, 22, 24),
}
KINDS = ("circle", "square", "triangle", "star")
RADII: Mapping[str, tuple[float, float]] = {"small": (0.145, 0.155), "large": (0.185, 0.195)}

NEAR, MIDDLE, FAR = 0.27, 0.5, 0.73
JITTER = 0.02  # two large shapes at NEAR and FAR still do not touch
LOOSE_JITTER = 0.12  # across the line on which two shapes stand

SINGLE_PLACES: Mapping[str, tuple[float, float]] = {
    "in the middle": (MIDDLE, MIDDLE),
    "on the left": (NEAR, MIDDLE),
    "on the right": (FAR, MIDDLE),
    "at the top": (MIDDLE, NEAR),
    "at the bottom": (MIDDLE, FAR),
    "in the top left corner": (NEAR, NEAR),
    "in the top right corner": (FAR, NEAR),
    "in the bottom left corner": (NEAR, FAR),
    "in the bottom right corner": (FAR, FAR),
}
LAYOUTS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "row": ((NEAR, MIDDLE), (FAR, MIDDLE)),
    "column": ((MIDDLE, NEAR), (MIDDLE, FAR)),
    "pair above": ((NEAR, NEAR), (FAR, NEAR), (MIDDLE, FAR)),
    "pair below": ((NEAR, FAR), (FAR, FAR), (MIDDLE, NEAR)),
    "pair left": ((NEAR, NEAR), (NEAR, FAR), (FAR, MIDDLE)),
    "pair right": ((FAR, NEAR), (FAR, FAR), (NEAR, MIDDLE)),
}
SHARE_OF_COUNTS = {1: 0.22, 2: 0.75, 3: 0.03}

CAPTIONS_PER_IMAGE = 5

# {a}, {b} and {c} are the shapes in the order of the layout's places, see LAYOUTS.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape: what it is called, and its centre and radius."""

    colour: str
    kind: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """The shapes of one picture, in the order of their layout's places.

    `layout` is a key of `SINGLE_PLACES` for one shape, of `LAYOUTS` for several.
    """

    layout: str
    shapes: tuple[Shape, ...]

    def signature(self) -> tuple[str, tuple[tuple[str, str, str], ...]]:
        """Return what makes two scenes the same: layout and shapes, without the jitter."""
        return self.layout, tuple((s.colour, s.kind, s.size) for s in self.shapes)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the shapes as JSON can hold them."""
        return [asdict(shape) for shape in self.shapes]


def imagine_scenes(count: int, generator: np.random.Generator) -> list[Scene]:
    """Return `count` scenes, no two of the same signature."""
    scenes: dict[object, Scene] = {}
    while len(scenes) < count:
        scene = imagine_scene(generator)
        scenes.setdefault(scene.signature(), scene)
    return list(scenes.values())


def imagine_scene(generator: np.random.Generator) -> Scene:
    """Return one scene drawn at random."""
    shares = list(SHARE_OF_COUNTS.values())
    count = list(SHARE_OF_COUNTS)[int(generator.choice(len(shares), p=shares))]
    if count == 1:
        layout = _pick(generator, list(SINGLE_PLACES))
        places: tuple[tuple[float, float], ...] = (SINGLE_PLACES[layout],)
    else:
        layout = _pick(generator, [name for name in LAYOUTS if len(LAYOUTS[name]) == count])
        places = LAYOUTS[layout]
    names = generator.choice(len(COLOURS) * len(KINDS), size=count, replace=False)
    shapes = []
    for (x, y), name in zip(places, names, strict=True):
        size = _pick(generator, list(RADII))
        shapes.append(
            Shape(
                colour=list(COLOURS)[name // len(KINDS)],
                kind=KINDS[name % len(KINDS)],
                size=size,
                x=_near(generator, x, LOOSE_JITTER if layout == "column" else JITTER),
                y=_near(generator, y, LOOSE_JITTER if layout == "row" else JITTER),
                radius=round(float(generator.uniform(*RADII[size])), 4),
            )
        )
    return Scene(layout, tuple(shapes))


def describe(scene: Scene, generator: np.random.Generator) -> list[str]:
    """Return five different captions of the scene, as sentences."""
    captions: dict[str, None] = {}
    templates = SINGLE if scene.layout in SINGLE_PLACES else SEVERAL[scene.layout]
    for number in generator.permutation(len(templates))[:CAPTIONS_PER_IMAGE]:
        with_size = bool(generator.integers(2))
        names = [_noun_phrase(shape, with_size) for shape in scene.shapes]
        slots = dict(zip("abc", names, strict=False), place=scene.layout)
        text = templates[number].format(**slots)
        captions[f"{text[0].upper()}{text[1:]}."] = None
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


def _pick(generator: np.random.Generator, names: list[str]) -> str:
    return names[int(generator.integers(len(names)))]


def _near(generator: np.random.Generator, centre: float, jitter: float) -> float:
    return round(float(generator.uniform(centre - jitter, centre + jitter)), 4)
