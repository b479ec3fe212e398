"""Stores of several lists of images, read as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from captioner.encoder.interface import Encoder
from captioner.encoder.store import FeatureStore
from captioner.encoder.store_writer import ImageFile
from captioner.features import Features


class JointStore:
    """The features of one list of images after the other, by places in all of them."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self._stores = stores
        self._starts = np.cumsum([0, *map(len, stores)])
        self.missing = frozenset(
            int(start) + place
            for start, store in zip(self._starts, stores, strict=False)
            for place in store.missing
        )

    @classmethod
    def open(
        cls,
        folder: Path | None,
        encoder: Encoder,
        image_lists: Sequence[Sequence[ImageFile]],
        **how: Any,
    ) -> Self:
        """Return one store of all lists, each kept by itself, so that others find it again.

        `how` is what `FeatureStore.open` takes; an empty list has no store.
        """
        return cls(
            [FeatureStore.open(folder, encoder, some, **how) for some in image_lists if some]
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: Sequence[int]) -> Features:
        """Return the features of some images in float32.

        Raises:
            DataError: one of them is missing.
        """
        if len(self._stores) == 1:
            return self._stores[0].rows(indices)
        wanted = np.asarray(indices, dtype=np.int64)
        of_store = np.searchsorted(self._starts, wanted, side="right") - 1
        parts, places = [], []
        for number, store in enumerate(self._stores):
            here = np.flatnonzero(of_store == number)
            if len(here):
                parts.append(store.rows((wanted[here] - self._starts[number]).tolist()))
                places += here.tolist()
        return Features.in_order(parts, places) if parts else self._stores[0].rows([])
