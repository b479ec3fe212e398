"""Sources of a batch's features: a store of them, or the encoder itself.

Both split the work in two: `read` needs no gradient and runs ahead in a background thread;
`features` runs in the training step, with gradients where the encoder is trained.
A broken image is left out of its batch, named once and counted.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch

from captioner.data.augmented_images import AugmentedCopy
from captioner.data.images import open_image
from captioner.data.karpathy import CaptionedImage
from captioner.encoder.joint_store import JointStore
from captioner.encoder.preprocessing import Preprocessing
from captioner.engines.torch_engine import TorchEngine
from captioner.errors import ImageError
from captioner.features import Features
from training.config import TrainingConfig
from training.distributed import Ranks
from training.views import WHOLE, View, augmented_copies, seen

_MIRRORED = -1  # beside the numbers of augmented copies


class Read(NamedTuple):
    """The readable ones of the images asked for, and what `features` needs of them."""

    indices: list[int]
    payload: Any


class ImageSource(Protocol):
    def read(self, indices: Sequence[int], views: Sequence[View] | None = None) -> Read: ...

    def features(self, read: Read) -> Features: ...

    def close(self) -> None: ...


class StoredFeatures:
    """Features that were computed once, of the images, mirrored, and of augmented copies."""

    def __init__(
        self,
        store: JointStore,
        mirrored: JointStore | None,
        device: torch.device,
        copies: Sequence[JointStore] = (),
    ) -> None:
        others = [*copies, *([mirrored] if mirrored else [])]
        self.missing = store.missing.union(*(other.missing for other in others))
        self._store = store
        self._others = dict(enumerate(copies, 1))
        if mirrored is not None:
            self._others[_MIRRORED] = mirrored
        self._device = device

    def read(self, indices: Sequence[int], views: Sequence[View] | None = None) -> Read:
        kept = [place for place, index in enumerate(indices) if index not in self.missing]
        kept_indices = [indices[place] for place in kept]
        rows = self._store.rows(kept_indices)
        kinds = [_kind(views[place]) for place in kept] if views is not None else []
        for number, store in self._others.items():
            taken = [row for row, kind in enumerate(kinds) if kind == number]
            if taken:
                rows.put(taken, store.rows([kept_indices[row] for row in taken]))
        return Read(kept_indices, rows)

    def features(self, read: Read) -> Features:
        rows: Features = read.payload
        return rows.to(self._device)

    def close(self) -> None: ...


def _kind(view: View) -> int:
    """Return which store has the features of a view; 0 is that of the images themselves."""
    return view.copy or (_MIRRORED if view.is_mirrored else 0)


class LiveImages:
    """Images that are decoded, and encoded by `encode`, anew each time."""

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        preprocessing: Preprocessing,
        encode: Callable[[Sequence[np.ndarray]], Features],
        *,
        workers: int,
        announce: Callable[[str], None],
    ) -> None:
        self.missing: dict[int, str] = {}  # why they cannot be read
        self._images = images
        self._preprocessing = preprocessing
        self._encode = encode
        self._announce = announce
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._lock = threading.Lock()

    def read(self, indices: Sequence[int], views: Sequence[View] | None = None) -> Read:
        found = list(self._pool.map(self._pixels, indices, views or [WHOLE] * len(indices)))
        kept = [place for place, pixels in enumerate(found) if pixels is not None]
        return Read([indices[place] for place in kept], [found[place] for place in kept])

    def features(self, read: Read) -> Features:
        return self._encode(read.payload)

    def agree(self, ranks: Ranks) -> None:
        """Take in which images the other processes could not read, and name them."""
        for found in ranks.gather(self.missing):
            for index in sorted(found.keys() - self.missing.keys()):
                self.missing[index] = found[index]
                self._announce(f"skipped: {found[index]}")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _pixels(self, index: int, view: View) -> np.ndarray | None:
        if index in self.missing:
            return None
        try:
            image = open_image(self._images[index].path)
        except ImageError as problem:
            with self._lock:
                is_news = index not in self.missing
                self.missing[index] = str(problem)
            if is_news:
                self._announce(f"skipped: {problem}")
            return None
        return self._preprocessing.resize(seen(image, view))


@dataclass(frozen=True)
class SourceSchedule:
    """Which source serves which epoch: the store while the encoder is frozen, then the images."""

    stored: StoredFeatures | None
    live: LiveImages | None
    frozen_epochs: int  # at the start, from the store

    @classmethod
    def open(
        cls,
        engine: TorchEngine,
        images_by_set: Sequence[Sequence[CaptionedImage]],
        config: TrainingConfig,
        announce: Callable[[str], None],
        ranks: Ranks,
        *,
        is_augmented: bool,
    ) -> Self:
        """Return the sources of these images, computing and storing features as far as needed.

        Places count through the images of all sets; features are stored set by set.
        """
        live = None
        if config.trains_encoder:
            is_bf16 = config.amp == "bf16"
            autocast = torch.autocast(engine.device.type, torch.bfloat16, enabled=is_bf16)
            live = LiveImages(
                [image for images in images_by_set for image in images],
                engine.preprocessing,
                autocast(engine.encoder.forward_by_size),
                workers=config.workers,
                announce=announce,
            )
            if not config.frozen_epochs:
                return cls(None, live, 0)

        def store(mirrored: bool = False, copy: AugmentedCopy | None = None) -> JointStore:
            return JointStore.open(
                Path(config.feature_store) if config.feature_store else None,
                engine.encoder,
                images_by_set,
                mirrored=mirrored,
                copy=copy,
                workers=config.workers,
                progress=ranks.is_first,
                announce=announce,
                processes=ranks,
            )

        mirrored = store(mirrored=True) if is_augmented and config.horizontal_flip else None
        copies = [store(copy=one) for one in augmented_copies(config)] if is_augmented else []
        stored = StoredFeatures(store(), mirrored, engine.device, copies)
        return cls(stored, live, config.frozen_epochs)

    def of_epoch(self, number: int) -> ImageSource:
        """Return the source of epoch `number`, counted from 0."""
        is_stored = self.live is None or number < self.frozen_epochs
        source = self.stored if is_stored else self.live
        assert source is not None, "a schedule has a source for every epoch"
        return source

    def agree(self, ranks: Ranks) -> None:
        """Take in which images the other processes could not read."""
        if self.live is not None:
            self.live.agree(ranks)

    def close(self) -> None:
        """End the threads that read images."""
        if self.live is not None:
            self.live.close()

    @property
    def known_missing(self) -> frozenset[int]:
        """The images that are known to be broken before the first epoch."""
        return frozenset(self.stored.missing) if self.stored else frozenset()
