"""Captions of a batch of images, packed by step so that nothing is computed for padding.

Rows (one per caption) are grouped by image, so that the captions of an image share its features.
Images are sorted by their longest caption, so the images that still have words are always the first
ones. Only rows that still have a word take part in a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from captioner.vocabulary import END, START


@dataclass(frozen=True)
class PackedStep:
    """One step of a batch: which rows take part, and where they sit among their images."""

    tokens: slice
    """Place of this step's rows in everything that is packed by token."""
    survivors: Tensor | None
    """[rows] positions among the rows of the step before; None where all of them go on."""
    images: Tensor
    """[rows] each row's image, in the batch's image order."""
    cells: Tensor
    """[rows] place of each row in a grid [active_images, slots]."""
    active_images: int
    """How many images, from the first on, still have a caption that is not over."""
    slots: int
    """The most captions that any image still has at this step."""

    @property
    def rows(self) -> int:
        return self.tokens.stop - self.tokens.start

    def to_grid(self, packed: Tensor) -> Tensor:
        """Spread [rows, ...] to [active_images, slots, ...], zero where there is no row."""
        if self.rows != self.active_images * self.slots:
            empty = packed.new_zeros(self.active_images * self.slots, *packed.shape[1:])
            packed = empty.index_copy_(0, self.cells, packed)
        return packed.unflatten(0, (self.active_images, self.slots))

    def from_grid(self, grid: Tensor) -> Tensor:
        """Gather [active_images, slots, ...] to [rows, ...]."""
        flat = grid.flatten(0, 1)
        if self.rows == self.active_images * self.slots:
            return flat
        return flat.index_select(0, self.cells)


@dataclass(frozen=True)
class CaptionBatch:
    """Captions of B images as packed steps, with the words that go in and those to predict."""

    words: Tensor
    """[words] each word that goes in, once: what depends on the word alone is computed once."""
    word_index: Tensor
    """[tokens] place in `words` of what goes in: the start token, then the caption's words."""
    targets: Tensor
    """[tokens] the caption's words, then the end token."""
    image_order: Tensor
    """[images] which of the given images stands at each place."""
    first_images: Tensor
    """[captions] each row's image at step 0, in image order."""
    image_cells: Tensor
    """[tokens] place of each token in a grid [images, tokens_per_image]."""
    tokens_per_image: int
    timeline: tuple[PackedStep, ...]

    @property
    def steps(self) -> int:
        return len(self.timeline)

    @property
    def num_captions(self) -> int:
        return len(self.first_images)

    @property
    def num_tokens(self) -> int:
        return len(self.targets)

    @classmethod
    def pack(
        cls,
        captions: Sequence[Sequence[Sequence[int]]],
        device: torch.device | str = "cpu",
    ) -> "CaptionBatch":
        """Pack `captions[image][caption]`, word ids without start and end.

        Every image needs a caption; a caption may be empty (it then predicts the end alone).
        """
        if not captions or not all(captions):
            raise ValueError("every image of a batch needs at least one caption")
        order = sorted(range(len(captions)), key=lambda b: -max(map(len, captions[b])))
        rows = [(place, caption) for place, b in enumerate(order) for caption in captions[b]]
        lengths = np.array([len(caption) + 1 for _, caption in rows])
        steps = int(lengths.max())
        inputs = np.full((len(rows), steps), END, dtype=np.int64)
        targets = np.full((len(rows), steps), END, dtype=np.int64)
        inputs[:, 0] = START
        for row, (_, caption) in enumerate(rows):
            inputs[row, 1 : len(caption) + 1] = caption
            targets[row, : len(caption)] = caption
        image_of_row = np.array([place for place, _ in rows])

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        timeline, active_rows, start = [], np.arange(len(rows)), 0
        for step in range(steps):
            alive = lengths[active_rows] > step
            survivors = None if alive.all() else tensor(np.flatnonzero(alive))
            active_rows = active_rows[alive]
            images = image_of_row[active_rows]
            counts = np.bincount(images)
            slots = int(counts.max())
            rank = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
            stop = start + len(active_rows)
            timeline.append(
                PackedStep(
                    tokens=slice(start, stop),
                    survivors=survivors,
                    images=tensor(images),
                    cells=tensor(images * slots + rank),
                    active_images=len(counts),
                    slots=slots,
                )
            )
            start = stop
        present = np.arange(steps)[None, :] < lengths[:, None]
        image_of_token = np.broadcast_to(image_of_row[:, None], present.shape).T[present.T]
        per_image = np.bincount(image_of_token)
        by_image = np.argsort(image_of_token, kind="stable")
        rank_in_image = np.empty(len(image_of_token), dtype=np.int64)
        rank_in_image[by_image] = np.arange(len(by_image)) - np.repeat(
            np.cumsum(per_image) - per_image, per_image
        )
        words, word_index = np.unique(inputs.T[present.T], return_inverse=True)
        return cls(
            words=tensor(words),
            word_index=tensor(word_index),
            targets=tensor(targets.T[present.T]),
            image_order=tensor(np.array(order)),
            first_images=timeline[0].images,
            image_cells=tensor(image_of_token * int(per_image.max()) + rank_in_image),
            tokens_per_image=int(per_image.max()),
            timeline=tuple(timeline),
        )

    def captions_of_tokens(self) -> Tensor:
        """Return the row at step 0, in image order, of each token's caption: [tokens]."""
        row = torch.arange(self.num_captions, device=self.targets.device)
        rows = []
        for step in self.timeline:
            row = row if step.survivors is None else row[step.survivors]
            rows.append(row)
        return torch.cat(rows)

    def images_of_tokens(self) -> Tensor:
        """Return the place of each token's image: [tokens]."""
        return torch.cat([step.images for step in self.timeline])

    def reversed(self) -> tuple["CaptionBatch", Tensor]:
        """Return the same captions read from their end, and where each token is predicted there.

        The end token is predicted first, from the start token, and the first word last: what is
        predicted at token k here, is predicted there at token mirror[k]; mirror is its own inverse.
        """
        device, rows = self.targets.device, self.captions_of_tokens()
        counts = torch.tensor([step.rows for step in self.timeline], device=device)
        steps = torch.arange(self.steps, device=device).repeat_interleave(counts)
        places = torch.zeros(self.num_captions, self.steps, dtype=torch.int64, device=device)
        places[rows, steps] = torch.arange(self.num_tokens, device=device)
        mirror = places[rows, torch.bincount(rows)[rows] - 1 - steps]
        targets = self.targets[mirror]
        inputs = targets[places[rows, (steps - 1).clamp_min(0)]].masked_fill(steps == 0, START)
        words, word_index = inputs.unique(return_inverse=True)
        batch = replace(self, words=words, word_index=word_index, targets=targets)
        return batch, mirror

    def by_image(self, packed: Tensor) -> Tensor:
        """Spread [tokens, size] to [images, tokens_per_image, size], zero where there is none."""
        images, tokens = len(self.image_order), self.tokens_per_image
        grid = packed.new_zeros(images * tokens, packed.shape[1])
        return grid.index_copy_(0, self.image_cells, packed).view(images, tokens, -1)
