"""Pictures of the built-in sample: flat shapes with smooth edges on a mottled ground.

Each outline is drawn several times too large as a mask and scaled down, which is cheaper than
drawing the whole picture large. Colours, angles and the ground vary a little, so no two pictures of
one kind of shape have the same pixels.
"""

from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from captioner.data.shapes_scenes import COLOURS, Scene, Shape

SIDE = 112  # pixels
SUPERSAMPLING = 4
LARGEST_ANGLE = pi / 15  # more would turn squares into diamonds
# In steps of a channel of 8 bits:
COLOUR_JITTER = 10
GROUND_LIGHTNESS = (118, 178)  # between the black and the white of the shapes
TINT = 14
SLOPE = 11
MOTTLE = 5.0
GRAIN = 4
PATCHES = 6  # of the mottled ground, along a side

REACH = 1.2  # outlines reach this far, in the shape's radius

Point = tuple[float, float]


def draw_scene(scene: Scene, generator: np.random.Generator) -> Image.Image:
    """Return the picture of a scene, `SIDE` pixels wide and high."""
    picture = _ground(generator)
    for shape in scene.shapes:
        jitter = generator.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, 3)
        colour = tuple(np.clip(np.array(COLOURS[shape.colour]) + jitter, 0, 255).tolist())
        angle = float(generator.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
        mask, corner = _mask(shape, angle)
        picture.paste(colour, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    return picture


def _ground(generator: np.random.Generator) -> Image.Image:
    colour = generator.uniform(*GROUND_LIGHTNESS) + generator.uniform(-TINT, TINT, 3)
    direction = generator.uniform(0, 2 * pi)
    ramp = np.linspace(-SLOPE, SLOPE, PATCHES)
    slope = cos(direction) * ramp[None, :, None] + sin(direction) * ramp[:, None, None]
    mottle = generator.normal(0, MOTTLE, (PATCHES, PATCHES, 1))
    patches = Image.fromarray((colour + slope + mottle).astype(np.uint8))
    smooth = np.asarray(patches.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.integers(-GRAIN, GRAIN + 1, (SIDE, SIDE, 1), dtype=np.int16)
    return Image.fromarray((smooth + grain).astype(np.uint8))


def _mask(shape: Shape, angle: float) -> tuple[Image.Image, tuple[int, int]]:
    """Return how much of each pixel the shape covers, and the corner of that piece."""
    left, top = (int((centre - REACH * shape.radius) * SIDE) for centre in (shape.x, shape.y))
    width = int(2 * REACH * shape.radius * SIDE) + 2
    large = Image.new("L", (width * SUPERSAMPLING, width * SUPERSAMPLING))
    pen = ImageDraw.Draw(large)

    def place(point: Point) -> Point:
        x, y = point
        x, y = x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)
        return (
            ((shape.x + shape.radius * x) * SIDE - left) * SUPERSAMPLING,
            ((shape.y + shape.radius * y) * SIDE - top) * SUPERSAMPLING,
        )

    if shape.kind in OUTLINES:
        pen.polygon([place(point) for point in OUTLINES[shape.kind]], fill=255)
    else:
        (x, y), reach = place((0, 0)), 0.95 * shape.radius * SIDE * SUPERSAMPLING
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)
    return large.reduce(SUPERSAMPLING), (left, top)


def _around(count: int, radii: tuple[float, ...], start: float = -pi / 2) -> list[Point]:
    """Return points at equal angles around the centre, at `radii` in turn; the first is on top."""
    steps = [start + 2 * pi * step / count for step in range(count)]
    return [
        (radii[step % len(radii)] * cos(turn), radii[step % len(radii)] * sin(turn))
        for step, turn in enumerate(steps)
    ]


# Points around a centre at (0, 0) and within REACH of it; the unit is the shape's radius.
OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(x, y + 0.18) for x, y in _around(3, (1.1,))],
    "star": _around(10, (1.08, 0.45)),
}
