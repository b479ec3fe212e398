"""Data sets by name: the value of `--data` is COCO, the built-in sample, or a path.

Without a value, COCO is used if it is there, else the sample, and one line says so. Every opened
data set is announced with the number of images in each split.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner.data.joint import JointDataset
from captioner.data.karpathy import CaptionDataset, load_karpathy
from captioner.data.shapes import ensure
from captioner.errors import DataError, OptionError

SAMPLE = "shapes"  # the built-in one
COCO_FOLDER = Path("data", "coco")
COCO_COMMAND = "python scripts/download_coco.py"
REPOSITORY = Path(__file__).resolve().parents[2]
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
IMAGES_LOOKED_FOR = 20

Announce = Callable[[str], None]


def open_dataset(
    data: str | None,
    *,
    images: Path | None = None,
    restval: bool = True,
    announce: Announce,
) -> CaptionDataset:
    """Return the data set that `data` names: "coco", "shapes", a path, or None for what is there.

    A path is a Karpathy JSON or a folder that holds one, named `dataset*.json`. `images` is the
    folder of the images, where it is not one of the usual ones beside the JSON. `announce` takes
    lines for the reader: the counts, and that the sample stands in for COCO.

    Raises:
        DataError: there is no such data set, or none of its images is there.
        OptionError: `images` is given for the sample, which has its own.
    """
    if data is None:
        data = "coco"
        if find_coco() is None:
            data = SAMPLE
            announce(
                f"*** NO COCO in {COCO_FOLDER}: using the built-in sample 'shapes' instead. "
                f"To fetch COCO (20 GB): {COCO_COMMAND} ***"
            )
    if images is not None and data == SAMPLE:
        raise OptionError("--images does not go with the built-in sample, which has its own")
    json_path = locate(data, announce)
    dataset = load_karpathy(json_path, images, restval=restval)
    _check_that_images_are_there(dataset)
    counts = ", ".join(f"{count:,} {split}" for split, count in dataset.counts().items())
    captions = sum(len(image.captions) for image in dataset.images)
    left_out = f", {dataset.left_out:,} empty captions left out" if dataset.left_out else ""
    announce(
        f"data set {dataset.name}: images {counts}; {captions:,} captions{left_out} ({json_path})"
    )
    return dataset


def open_datasets(
    data: Sequence[str],
    *,
    images: Sequence[str] = (),
    restval: bool = True,
    announce: Announce,
) -> JointDataset:
    """Return the data sets of these names as one; without a name what is there.

    `images` holds no folder, or one for each data set, empty where it is one of the usual ones.

    Raises:
        DataError: one of the data sets is not there, or none of its images.
        OptionError: a data set is named twice, or the folders are not as many as the data sets.
    """
    names: Sequence[str | None] = data or [None]
    if images and len(images) != len(names):
        raise OptionError(images_problem(len(images), len(names)))
    folders = [Path(folder) if folder else None for folder in images or [""] * len(names)]
    parts: list[CaptionDataset] = []
    for name, folder in zip(names, folders, strict=True):
        part = open_dataset(name, images=folder, restval=restval, announce=announce)
        if any(part.json_path.samefile(other.json_path) for other in parts):
            raise OptionError(
                f"--data names {part.json_path} twice; name it once, and let --data-weights say "
                "how often its images are drawn"
            )
        parts.append(part)
    return JointDataset(tuple(parts))


def images_problem(folders: int, data_sets: int) -> str:
    """Return what is wrong where the folders of images are not as many as the data sets."""
    return (
        f"--images names {folders} folders for {data_sets} data sets; give one for each of --data "
        "in its order, '' where it lies beside the JSON"
    )


def locate(data: str, announce: Announce) -> Path:
    """Return the JSON of "coco", "shapes" (made if need be) or a path.

    Raises:
        DataError: there is none; the message says how to get it.
    """
    if data == SAMPLE:
        return ensure(announce=announce)
    if data != "coco":
        return find_json(Path(os.path.expanduser(data)))
    coco = find_coco()
    if coco is None:
        raise DataError(
            f"there is no COCO in {COCO_FOLDER}, neither here nor in {REPOSITORY}; "
            f"to fetch it (20 GB): {COCO_COMMAND}"
        )
    return coco


def find_coco() -> Path | None:
    """Return COCO's JSON below the current folder, else below the repository; None without."""
    places = [root / COCO_FOLDER / "dataset_coco.json" for root in (Path(), REPOSITORY)]
    return next((place for place in places if place.is_file()), None)


def find_json(path: Path) -> Path:
    """Return the data set's JSON: the path itself, or the one `dataset*.json` in it.

    Raises:
        DataError: there is none, or more than one, or the file is a table yet to be converted.
    """
    if path.is_dir():
        found = sorted(path.glob("dataset*.json"))
        if len(found) == 1:
            return found[0]
        met = ", ".join(file.name for file in found) or "no dataset*.json"
        raise DataError(f"{path} holds {met}; name the JSON itself: --data {path}/FILE.json")
    if not path.exists():
        raise DataError(f"there is no data set {path}; --data takes coco, shapes or a path")
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise DataError(
            f"{path} is a table of captions, which `captioner data convert` "
            "turns into the JSON that --data takes"
        )
    return path


def _check_that_images_are_there(dataset: CaptionDataset) -> None:
    """Raise in time for the commonest mistake: the wrong folder, or images not yet fetched."""
    every = max(1, len(dataset.images) // IMAGES_LOOKED_FOR)
    if not any(os.path.isfile(image.path) for image in dataset.images[::every]):
        remedy = f", or fetch them: {COCO_COMMAND}" if dataset.name == "coco" else ""
        raise DataError(
            f"the images of {dataset.json_path} are not in {dataset.images_dir}: there is no "
            f"{dataset.images[0].path}; name their folder with --images{remedy}"
        )
