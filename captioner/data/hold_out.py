"""Division of a data set once more: training images that are held out for judging.

The images with most captions are held out first, for their scores say most. Which of those with as
many are taken depends on their names and a seed only.
"""

import hashlib
from pathlib import Path

from captioner.data.karpathy import SPLITS, CaptionDataset, read_karpathy
from captioner.data.karpathy_writer import json_path_in, write_karpathy
from captioner.data.open_dataset import locate
from captioner.errors import DataError, OptionError
from captioner.files import read_json

ENOUGH_CAPTIONS = 5  # as in COCO and Flickr; more do not make an image a better judge
NOT_TRAINED_ON = tuple(split for split in SPLITS if split != "train")


def draw(name: str, seed: int) -> bytes:
    """Return the place of an image in an order that depends on its name and the seed only."""
    # Python keeps bytes of a name that are not UTF-8 as surrogates.
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()


def hold_out(
    data: Path | str,
    count: int,
    out: Path,
    *,
    images: Path | None = None,
    split: str = "val",
    former: str | None = None,
    seed: int = 0,
) -> CaptionDataset:
    """Write a data set whose split `split` has `count` images that were training images.

    Images that were in that split before stay there, or go to the split `former`. `out` is the
    JSON, or a folder for it.

    Raises:
        DataError: the data set cannot be read, or too few training images have a caption.
        OptionError: count, seed or a split is out of range, or the result would replace its source.
    """
    if count < 1:
        raise OptionError(f"the number of images to hold out is {count}; give at least 1")
    if seed < 0:
        raise OptionError(f"--seed is {seed}; it cannot be negative")
    for name, value, allowed in (("--as", split, NOT_TRAINED_ON), ("--former", former, SPLITS)):
        if value not in (None, *allowed):
            raise OptionError(f"{name} is {value!r}; it is one of {', '.join(allowed)}")
    source = locate(str(data), announce=lambda _: None)
    dataset = read_karpathy(source, images)
    out = json_path_in(out, f"{source.stem.removeprefix('dataset_')}_held_out")
    if out.resolve() == source.resolve():
        raise OptionError(f"{out} is the data set itself; give another file with --out")
    able = [
        place
        for place, image in enumerate(dataset.images)
        if image.split == "train" and any(image.tokens)
    ]
    if count >= len(able):
        raise DataError(
            f"{source} has {len(able):,} captioned training images, and {count:,} of them are to "
            "be held out; leave some to train with"
        )

    def rank(place: int) -> tuple[int, bytes]:
        image = dataset.images[place]
        return -min(len(image.captions), ENOUGH_CAPTIONS), draw(image.filename, seed)

    held_out = frozenset(sorted(able, key=rank)[:count])
    entries = read_json(source, "data set", DataError)["images"]
    for place, entry in enumerate(entries):
        if place in held_out:
            entry["split"] = split
        elif entry["split"] == split and former is not None:
            entry["split"] = former
    return write_karpathy(out, dataset.name, entries, dataset.images_dir)
