"""Photographs that an export is calibrated on, checked on and judged on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.data.joint import JointDataset
from captioner.data.karpathy import CaptionedImage
from captioner.data.open_dataset import SAMPLE, open_datasets
from captioner.encoder.preprocessing import Preprocessing
from captioner.engines.interface import Engine
from captioner.errors import DataError, ImageError
from captioner.export.config import AUTO, FLOAT32, INT8, ExportOptions
from captioner.features import Features
from captioner.progress import Progress

_IMAGES_AT_ONCE = 16
_READING_THREADS = 4
_FEWEST_JUDGED = 2  # of one photograph alone every caption has a CIDEr of 0
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

Announce = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Where photographs are: to calibrate on, and with references to judge on."""

    calibration: Sequence[Path]
    validation: Sequence[CaptionedImage]  # may be empty

    @classmethod
    def find(
        cls,
        options: ExportOptions,
        summary: dict[str, Any],
        read: Callable[[Path], Any],
        announce: Announce,
        warn: Announce,
    ) -> "Photographs":
        """Return the photographs that the options name, or those of the training.

        Those that `read` cannot read are left out, and named by `warn`.

        Raises:
            DataError: they are not there, or too few, for a precision that is asked for.
        """
        asked = options.precisions - {FLOAT32, AUTO}
        needs_data = INT8 in asked or (bool(asked) and not options.allow_loss)
        try:
            where, trained_on, validation = _named(options, summary, announce)
        except DataError:
            if needs_data or options.data is not None:
                raise
            announce("no data set is here: captions are not compared; name one by --data")
            return cls(calibration=[], validation=[])
        validation = _some(validation, options.val_images)
        calibration = _some(trained_on, options.calibration_images)
        paths = {image.path for image in validation}
        if options.precisions & {INT8, AUTO}:
            paths |= set(calibration)
        damaged = _damaged(sorted(paths), read, warn)
        validation = [image for image in validation if image.path not in damaged]
        calibration = [path for path in calibration if path not in damaged]
        if INT8 in asked and not calibration:
            raise DataError(
                f"{where} has no photograph to calibrate int8 on; name data with training "
                "photographs by --data, or a folder of photographs by --calibration"
            )
        if not options.allow_loss and len(validation) < _FEWEST_JUDGED:
            problem = (
                f"the captioned validation photographs of {where} number {len(validation)}, and "
                f"CIDEr says nothing of fewer than {_FEWEST_JUDGED}"
            )
            if asked:
                raise DataError(
                    f"{problem}: what {' and '.join(sorted(asked))} costs cannot be judged; name "
                    "other --data or more --val-images, or add --allow-loss"
                )
            if AUTO in options.precisions:
                announce(f"{problem}: int8 is left out, unless by --allow-loss")
                calibration = []
        return cls(calibration=calibration, validation=validation)


def encode_files(
    engine: Engine, paths: Sequence[Path], description: str, *, show_progress: bool
) -> Features:
    """Return the features of photographs, at least one, as the engine computes them."""
    parts = []
    with Progress(len(paths), description, unit="photographs", enabled=show_progress) as progress:
        for pixels in read_files(engine.preprocessing, paths):
            parts.append(engine.encode(pixels).numpy())
            progress.advance(len(pixels))
    return Features.cat(parts)


def read_files(preprocessing: Preprocessing, paths: Sequence[Path]) -> Iterator[list[np.ndarray]]:
    """Yield the pixels of photographs in batches, each uint8 [h, w, 3]."""
    with ThreadPoolExecutor(_READING_THREADS) as threads:
        for start in range(0, len(paths), _IMAGES_AT_ONCE):
            batch = paths[start : start + _IMAGES_AT_ONCE]
            yield list(threads.map(preprocessing.read, batch))


def _named(
    options: ExportOptions, summary: dict[str, Any], announce: Announce
) -> tuple[str, Sequence[Path], Sequence[CaptionedImage]]:
    """Return what names the photographs, those to calibrate on and those to judge on."""
    if options.calibration is not None:
        return f"--calibration {options.calibration}", _in_folder(options.calibration), []
    dataset = _dataset(options, summary, announce)
    validation = [image for image in dataset.split("val") if any(image.captions)]
    return dataset.paths, [image.path for image in dataset.split("train")], validation


def _damaged(paths: Sequence[Path], read: Callable[[Path], Any], warn: Announce) -> set[Path]:
    """Return the photographs that cannot be read, each named, all counted."""

    def problem_of(path: Path) -> ImageError | None:
        try:
            read(path)
        except ImageError as problem:
            return problem
        return None

    with ThreadPoolExecutor(_READING_THREADS) as threads:
        problems = dict(zip(paths, threads.map(problem_of, paths), strict=True))
    damaged = {path for path, problem in problems.items() if problem is not None}
    for path in sorted(damaged):
        warn(f"skipped: {problems[path]}")
    if damaged:
        warn(f"left out: {len(damaged):,} of {len(paths):,} photographs, which cannot be read")
    return damaged


def _dataset(options: ExportOptions, summary: dict[str, Any], announce: Announce) -> JointDataset:
    """Return the data set that the options name, or all that the checkpoint was trained on."""
    names, folders = [options.data or ""], [""]
    if options.data is None:
        trained_on = summary.get("data", {})
        found = [_trained_on(one) for one in trained_on.get("sets", [trained_on])]
        names, folders = [name for name, _ in found], [folder for _, folder in found]
    images = folders if options.images is None else [str(options.images)]
    return open_datasets(names, images=images, announce=announce)


def _trained_on(stated: dict[str, Any]) -> tuple[str, str]:
    """Return the name of a data set, and the folder of its images where it is not a usual one."""
    data = stated.get("json")
    if data is not None and Path(data).exists():
        return data, stated["images"]
    if stated.get("name") == SAMPLE:
        return SAMPLE, ""
    raise DataError(
        f"the data that the checkpoint was trained on are not here ({data}); name data by --data, "
        "or a folder of photographs by --calibration"
    )


def _in_folder(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DataError(
            f"--calibration is {folder}, which holds no photographs ({', '.join(_SUFFIXES)}); "
            "give a folder with some"
        )
    return paths


def _some(things: Sequence[Any], count: int) -> list[Any]:
    """Return at most so many of the things, from all over their order."""
    step = max(1, -(-len(things) // count))
    return list(things[::step])
