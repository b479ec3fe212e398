"""The built-in sample: pictures of shapes with captions, generated from a seed in seconds.

It serves tests, and users who have no data set yet. The same seed and versions of the libraries
give the same bytes. It lies in the cache folder and is written to a temporary place first, so
neither a kill nor a second process leaves half a sample.

The pictures are flat shapes with smooth edges on a mottled ground. Each outline is drawn several
times too large as a mask and scaled down, which is cheaper than drawing the whole picture large.
Colours, angles and the ground vary a little, so no two pictures of one kind of shape have the same
pixels.
"""

import json
import os
from collections.abc import Callable
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from platformdirs import user_cache_path

from captioner.data.karpathy import SPLITS, to_entry
from captioner.data.shapes_scenes import (
    COLOURS,
    Scene,
    Shape,
    describe,
    imagine_scenes,
    named_rightly,
)
from captioner.errors import DataError, OptionError
from captioner.files import folder_written_aside, recover_folder, write_atomically

__all__ = ["JSON_NAME", "SIZES", "VERSION", "ensure", "generate", "named_rightly"]

VERSION = 4  # raised when the same seed gives other pictures or captions
SIZES = (3000, 300, 300)  # train, val, test
JSON_NAME = "dataset_shapes.json"
IMAGES = "images"
JPEG_QUALITY = 90

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


def ensure(
    folder: Path | None = None,
    seed: int = 0,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Return the path of the sample's JSON, and generate the sample where there is none.

    Without `folder` it lies in the user's cache folder, below `captioner/data`.

    Raises:
        StorageError: the folder cannot be written to.
    """
    if folder is None:
        folder = user_cache_path("captioner") / "data" / f"shapes-{VERSION}-{seed}"
    recover_folder(folder)
    json_path = folder / JSON_NAME
    if json_path.is_file() and _pictures_in(folder) == sum(SIZES):
        return json_path
    if announce is not None:
        announce(f"generating the sample: {sum(SIZES):,} pictures of shapes in {folder}")
    return generate(folder, seed, SIZES)


def generate(folder: Path, seed: int = 0, sizes: tuple[int, int, int] = SIZES) -> Path:
    """Write a sample of `sizes` train, val and test pictures; return the path of its JSON.

    Raises:
        DataError: the folder holds something else, which would be lost.
        StorageError: the folder cannot be written to.
    """
    if min(sizes) < 0 or seed < 0:
        raise OptionError(f"sizes {sizes} and seed {seed} of the sample must not be negative")
    if folder.exists() and not (folder / JSON_NAME).is_file() and any(folder.iterdir()):
        raise DataError(f"{folder} holds other files; name an empty or a new folder")
    generator = np.random.default_rng(seed)
    scenes = imagine_scenes(sum(sizes), generator)
    splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    with folder_written_aside(folder, durable=False) as aside:
        (aside / IMAGES).mkdir()
        entries: list[dict[str, Any]] = []
        for number, (scene, split) in enumerate(zip(scenes, splits, strict=True)):
            filename = f"shapes_{number:05d}.jpg"
            picture = draw_scene(scene, generator)
            picture.save(aside / IMAGES / filename, quality=JPEG_QUALITY)
            captions = describe(scene, generator)
            entry = to_entry(number, filename, split, captions, number * len(captions))
            entries.append({**entry, "layout": scene.layout, "scene": scene.to_json()})
        content = {"dataset": "shapes", "version": VERSION, "seed": seed, "images": entries}
        write_atomically(aside / JSON_NAME, json.dumps(content).encode())
    return folder / JSON_NAME


def _pictures_in(folder: Path) -> int:
    """Count the pictures that neither a cleaner of old files nor a power failure has taken."""
    if not (folder / IMAGES).is_dir():
        return 0
    with os.scandir(folder / IMAGES) as entries:
        return sum(entry.name.endswith(".jpg") and entry.stat().st_size > 0 for entry in entries)


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
