"""Scenes of the built-in sample: which shapes there are, and where they stand.

A scene has one to three shapes, no two of the same colour and kind, on places far enough apart
that "left of" and "above" are plainly true. Lengths and positions are fractions of the picture's
side, x from the left and y from the top.
"""

from collections.abc import Mapping
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
    counts = list(SHARE_OF_COUNTS)
    count = counts[_choose(generator, list(SHARE_OF_COUNTS.values()))]
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


def _choose(generator: np.random.Generator, shares: list[float]) -> int:
    return int(generator.choice(len(shares), p=shares))


def _pick(generator: np.random.Generator, names: list[str]) -> str:
    return names[int(generator.integers(len(names)))]


def _near(generator: np.random.Generator, centre: float, jitter: float) -> float:
    return round(float(generator.uniform(centre - jitter, centre + jitter)), 4)
