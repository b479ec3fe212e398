"""The built-in sample: pictures of shapes with captions, generated from a seed in seconds.

It serves tests, and users who have no data set yet. The same seed and versions of the libraries
give the same bytes. It lies in the cache folder and is written to a temporary place first, so
neither a kill nor a second process leaves half a sample.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from captioner.data.karpathy import SPLITS, to_entry
from captioner.data.shapes_grammar import describe, named_rightly
from captioner.data.shapes_pictures import draw_scene
from captioner.data.shapes_scenes import imagine_scenes
from captioner.errors import DataError, OptionError
from captioner.files import folder_written_aside, recover_folder, write_atomically

__all__ = ["JSON_NAME", "SIZES", "VERSION", "ensure", "generate", "named_rightly"]

VERSION = 4  # raised when the same seed gives other pictures or captions
SIZES = (3000, 300, 300)  # train, val, test
JSON_NAME = "dataset_shapes.json"
IMAGES = "images"
JPEG_QUALITY = 90


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
