"""Several data sets written as one file in Karpathy's form.

Splits are kept, `restval` included. Images get new ids, counted from 0, and their names lead from
the new file's folder to where they are. Each entry still says its set, its id there and, where it
had one, COCO's number.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.data.joint import JointDataset
from captioner.data.karpathy import CaptionDataset, read_karpathy
from captioner.data.karpathy_writer import json_path_in, write_karpathy
from captioner.data.open_dataset import images_problem, locate
from captioner.errors import DataError, OptionError
from captioner.files import read_json


def merge(
    data: Sequence[Path | str],
    out: Path,
    *,
    images: Sequence[str] = (),
    name: str | None = None,
    is_absolute: bool = False,
) -> CaptionDataset:
    """Write the data sets as one, and return it.

    `out` is the JSON or a folder for it; `images` holds no folder or one for each data set, empty
    where it is one of the usual ones. With `is_absolute` the names of images are absolute paths,
    so that the file may be moved; without, the whole may be.

    Raises:
        DataError: a data set is missing or of another form.
        OptionError: a data set is named twice or not at all, or the result would replace one.
    """
    if images and len(images) != len(data):
        raise OptionError(images_problem(len(images), len(data)))
    parts: list[CaptionDataset] = []
    for one, of_images in zip(data, images or [""] * len(data), strict=True):
        path = locate(str(one), announce=lambda _: None)
        if any(path.samefile(other.json_path) for other in parts):
            raise OptionError(f"{path} is named twice; name each data set once")
        parts.append(read_karpathy(path, Path(of_images) if of_images else None))
    joint = JointDataset(tuple(parts))
    name = (name or joint.name).lower()
    out = json_path_in(out, name)
    for part in parts:
        if out.resolve() == part.json_path.resolve():
            raise OptionError(f"{out} is one of the data sets; give another file with --out")
    numbers = [image.cocoid for part in parts for image in part.images]
    # Where all images have COCO's number it is their id, which two of them cannot share.
    has_doubles = None not in numbers and len(set(numbers)) < len(numbers)
    dropped = {"filepath", "imgid", "sentids", *(["cocoid"] if has_doubles else [])}
    folder = out.parent.resolve()
    entries: list[dict[str, Any]] = []
    first = 0  # sentence of an image
    for set_name, part in zip(joint.names, parts, strict=True):
        stored = read_json(part.json_path, "data set", DataError)["images"]
        for entry, image in zip(stored, part.images, strict=True):
            # Of a folder that is a link, what lies above it is not what its name says.
            path, number = image.path.parent.resolve() / image.path.name, len(entries)
            ids = range(first, first + len(entry["sentences"]))
            entries.append(
                {
                    **{key: value for key, value in entry.items() if key not in dropped},
                    "filename": str(path) if is_absolute else os.path.relpath(path, folder),
                    "imgid": number,
                    "dataset": set_name,
                    "own_id": image.image_id,
                    "sentids": [*ids],
                    "sentences": [
                        {**sentence, "imgid": number, "sentid": sentid}
                        for sentence, sentid in zip(entry["sentences"], ids, strict=True)
                    ],
                }
            )
            first = ids.stop
    return write_karpathy(out, name, entries, out.parent)
