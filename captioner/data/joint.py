"""Several data sets as one.

Each keeps its splits, its folder of images and its name, so what is learned of all can be scored
for each. Where there are several, their images get new ids, counted from 0 through all of them, for
ids and names of files of two sets may be the same; an image still knows its set and its id there.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from captioner.data.karpathy import CaptionDataset, CaptionedImage, check_split
from captioner.errors import DataError
from captioner.files import file_hash


@dataclass(frozen=True)
class JointDataset:
    """One data set or several, in the order in which they were named."""

    parts: tuple[CaptionDataset, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError("there is no data set; name at least one")

    @property
    def is_several(self) -> bool:
        return len(self.parts) > 1

    @property
    def name(self) -> str:
        return "+".join(self.names)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each set; of two with one name the later one is called `NAME-2`."""
        met: Counter[str] = Counter()
        names = []
        for part in self.parts:
            met[part.name] += 1
            names.append(part.name if met[part.name] == 1 else f"{part.name}-{met[part.name]}")
        return tuple(names)

    @property
    def paths(self) -> str:
        """The JSON of each set, for messages."""
        return ", ".join(str(part.json_path) for part in self.parts)

    @property
    def files(self) -> Iterator[Path]:
        """The JSON of each set, and where its images are."""
        for part in self.parts:
            yield part.json_path
            yield from (image.path for image in part.images)

    @property
    def images(self) -> tuple[CaptionedImage, ...]:
        return tuple(image for part in self._images for image in part)

    def split(self, name: str) -> list[CaptionedImage]:
        """Return the images of `train`, `val` or `test` of all sets, set by set."""
        return [image for part in self.split_by_set(name) for image in part]

    def split_by_set(self, name: str) -> list[list[CaptionedImage]]:
        """Return the images of `train`, `val` or `test` of each set, which may be none."""
        check_split(name)
        return [[image for image in part if image.split == name] for part in self._images]

    def counts(self) -> dict[str, int]:
        """Return the number of images in each split."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part.counts())
        return dict(total)

    def sha256(self) -> str | list[str]:
        """Return the hash of the JSON, or where there are several of each."""
        hashes = [file_hash(part.json_path) for part in self.parts]
        return hashes if self.is_several else hashes[0]

    def origin(self) -> dict[str, Any]:
        """Return what a checkpoint tells of the data it was trained on; `sets` where several."""
        sets = [
            {
                "name": name,
                "json": str(part.json_path.resolve()),
                "images": str(part.images_dir.resolve()),
                "counts": part.counts(),
            }
            for name, part in zip(self.names, self.parts, strict=True)
        ]
        return (
            {"name": self.name, "sets": sets, "counts": self.counts()}
            if self.is_several
            else sets[0]
        )

    @cached_property
    def _images(self) -> Sequence[Sequence[CaptionedImage]]:
        if not self.is_several:
            return (self.parts[0].images,)
        found, number = [], 0
        for name, part in zip(self.names, self.parts, strict=True):
            found.append(
                [
                    replace(image, image_id=number + place, dataset=name, own_id=image.image_id)
                    for place, image in enumerate(part.images)
                ]
            )
            number += len(part.images)
        return found
