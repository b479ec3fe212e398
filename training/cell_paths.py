"""Share of a captioner's gradient that comes along the cell state alone, by words back in time.

Kanuparthi, Arpit et al. (ICLR 2019) argue that this part carries what is long past, and that the
rest drowns it. `gradient_paths.py` splits the gradient of a plain LSTM's weights by formula; here
PyTorch differentiates any decoder whose state has a cell, with all that its steps do, attention
too: once as it is, and once with everything but the cell cut between steps. Measured is the
gradient of one word's loss with respect to the cell state some words before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captioner.data.karpathy import CaptionedImage
from captioner.decoders import Decoder
from captioner.features import Features
from captioner.vocabulary import START, Vocabulary
from training.feature_sources import ImageSource
from training.work import Figures

_IMAGES = 32  # the first whose caption is long enough


@dataclass(frozen=True, eq=False)
class MeasuredCaptions:
    """Images, each with the beginning of a caption of it; all beginnings are equally long."""

    images: list[int]  # places in the list that a source reads from
    words: Tensor  # [B, T]

    @classmethod
    def choose(
        cls, images: Sequence[CaptionedImage], vocabulary: Vocabulary, words: int
    ) -> "MeasuredCaptions":
        """Return the first images that have a caption of so many words, and its beginning."""
        chosen = [
            (place, next(tokens for tokens in image.tokens if len(tokens) >= words)[:words])
            for place, image in enumerate(images)
            if any(len(tokens) >= words for tokens in image.tokens)
        ][:_IMAGES]
        rows = [vocabulary.encode(tokens) for _, tokens in chosen]
        return cls([place for place, _ in chosen], torch.tensor(rows).view(len(rows), words))

    def shares(
        self, decoder: Decoder, source: ImageSource, lags: Sequence[int], p: float
    ) -> Figures:
        """Return by name the shares at these lags: of the plain gradient, and where p > 0 of the
        mean that h-detach makes of it.

        There are none where the decoder has no cell state, or no image a caption so long.
        """
        read = source.read(self.images)
        if not read.indices:
            return {}
        place_of = {image: place for place, image in enumerate(self.images)}
        rows = [place_of[image] for image in read.indices]  # broken images are left out
        features = source.features(read)
        words = self.words[rows].to(features.grid.device)
        found = {}
        for name, damping in {"cell_share": 0.0, "cell_share_detached": p}.items():
            if name == "cell_share" or p > 0:
                for lag, share in cell_shares(decoder, features, words, lags, damping).items():
                    found[f"{name}/{lag}"] = share
        return found


def cell_shares(
    decoder: Decoder, features: Features, words: Tensor, lags: Sequence[int], p: float = 0.0
) -> dict[int, float]:
    """Return by lag the norm of the cell part over the sum of its norm and that of the rest.

    The loss is the cross-entropy of the last word. `p` weakens by 1 - p what h-detach would cut,
    which gives the mean over its masks (Corollary 1). Empty where the state has no field `c`.

    Shapes:
        words [B, T], lags below T.
    """
    whole, along_cell = (
        cell_gradients(decoder, features, words, p=p, cell_only=cell_only)
        for cell_only in (False, True)
    )
    shares = {}
    for lag in lags if whole else ():
        cell = float(along_cell[-1 - lag].norm())
        rest = float((whole[-1 - lag] - along_cell[-1 - lag]).norm())
        shares[lag] = cell / (cell + rest) if cell + rest > 0 else 0.0
    return shares


def cell_gradients(
    decoder: Decoder, features: Features, words: Tensor, *, p: float = 0.0, cell_only: bool = False
) -> list[Tensor]:
    """Return the gradient of the last word's loss with respect to the cell after each step.

    With `cell_only` nothing flows from step to step but through the cell.

    Shapes:
        words [B, T] -> T tensors [B, 1, H]; none where the state has no field `c`.
    """
    inputs = torch.cat([torch.full_like(words[:, :1], START), words[:, :-1]], dim=1)
    with torch.enable_grad():
        memory = decoder.prepare(features)
        state = decoder.start(memory)
        if "c" not in state._fields:
            return []
        cells = []
        for number in range(words.shape[1]):
            if number:
                state = _only_cell(state) if cell_only else _weakened(decoder, state, p)
            step = decoder.step(inputs[:, number : number + 1], state, memory)
            state, logits = step.state, step.logits
            cells.append(state.c)
        loss = nn.functional.cross_entropy(logits[:, 0], words[:, -1])
        return [
            torch.zeros_like(cell) if grad is None else grad
            for cell, grad in zip(
                cells, torch.autograd.grad(loss, cells, allow_unused=True), strict=True
            )
        ]


def _only_cell(state: Any) -> Any:
    kept = {name: getattr(state, name).detach() for name in state._fields if name != "c"}
    return state._replace(**kept)


def _weakened(decoder: Decoder, state: Any, p: float) -> Any:
    """Return a state of the same values, with 1 - p of the gradient where h-detach cuts."""
    if p == 0.0:
        return state
    cut = decoder.detached(state)
    return type(state)(
        *(
            whole if part is whole else (1 - p) * whole + p * part
            for whole, part in zip(state, cut, strict=True)
        )
    )
