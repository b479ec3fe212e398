"""Views of the training images: how each is seen in an epoch.

All numbers are drawn in the main process, from generators of the seed and the epoch alone, one for
each kind of change, so that another kind changes none of the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageOps

from captioner.data.augmented_images import (
    NUM_DRAWS,
    AugmentedCopy,
    Change,
    change_of,
    changed,
    cropped,
)
from training.config import TrainingConfig
from training.randomness import derived_generator

_ASPECTS = (3 / 4, 4 / 3)  # of a random crop, relative to the image's own


class View(NamedTuple):
    """How one image is seen in one epoch."""

    is_mirrored: bool = False
    crop: tuple[float, float, float, float] | None = None  # area, aspect, left, top; see `cropped`
    change: Change | None = None  # of an image that is decoded anew
    copy: int = 0  # number of the augmented copy whose stored features are taken; 0 is none


WHOLE = View()


def draw_views(config: TrainingConfig, filenames: Sequence[str], epoch: int) -> list[View]:
    """Return a view of each image, named by its file, in this epoch."""
    count = len(filenames)

    def generator(purpose: str) -> torch.Generator:
        return derived_generator(config.seed, purpose, epoch)

    is_stored = not config.trains_encoder or epoch < config.frozen_epochs
    draws = torch.rand(count, 5, generator=generator("views")).tolist()
    views = [_view(config, row) for row in draws]
    if config.augment and not is_stored:
        changes = torch.rand(count, NUM_DRAWS, generator=generator("augmentation")).tolist()
        views = [
            view._replace(change=change_of(row)) for view, row in zip(views, changes, strict=True)
        ]
    if config.augmented_copies and is_stored:
        most = config.augmented_copies
        numbers = torch.randint(most + 1, (count,), generator=generator("copies")).tolist()
        copies = {copy.number: copy for copy in augmented_copies(config)}
        views = [
            view._replace(copy=number, is_mirrored=copies[number].is_mirrored(filename))
            if number
            else view
            for view, number, filename in zip(views, numbers, filenames, strict=True)
        ]
    return views


def augmented_copies(config: TrainingConfig) -> list[AugmentedCopy]:
    """Return the copies whose features are stored, beside those of the images themselves."""
    return [
        AugmentedCopy(number=number, may_mirror=config.horizontal_flip)
        for number in range(1, config.augmented_copies + 1)
    ]


def seen(image: Image.Image, view: View) -> Image.Image:
    """Return the image as `view` says: cropped, mirrored, then changed."""
    if view.crop is not None:
        image = cropped(image, *view.crop)
    if view.is_mirrored:
        image = ImageOps.mirror(image)
    if view.change is not None:
        image = changed(image, view.change, with_crop=view.crop is None)
    return image


def _view(config: TrainingConfig, draws: list[float]) -> View:
    mirror, area, aspect, left, top = draws
    smallest = config.random_crop
    crop = None
    if smallest < 1:
        narrow, wide = _ASPECTS
        crop = (smallest + (1 - smallest) * area, narrow * (wide / narrow) ** aspect, left, top)
    return View(is_mirrored=config.horizontal_flip and mirror < 0.5, crop=crop)
