"""The interface of encoders: networks that turn pixels into features.

Whatever else the project asks of an encoder (store, checkpoint, training, search) follows from
this class, so a network of another library is one file with a subclass.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from captioner.encoder.config import EncoderConfig
from captioner.encoder.preprocessing import Preprocessing
from captioner.encoder.weights import state_hash
from captioner.errors import OptionError
from captioner.features import Features


class Encoder(nn.Module, ABC):
    """A network that maps pixels to features; frozen until `trainable` is called.

    A subclass makes the network in `create` and `restore` and runs it in `forward`. The weights
    are those of `network`: a checkpoint keeps its state, and `fingerprint` changes with it.
    """

    feature_size: int  # D, set by the subclass

    def __init__(
        self, config: EncoderConfig, preprocessing: Preprocessing, network: nn.Module
    ) -> None:
        super().__init__()
        self.config = config
        self.preprocessing = preprocessing
        self.grid = config.grid  # positions along each side; P = grid * grid
        self.network: Any = network
        self.requires_grad_(False)
        self.eval()

    @classmethod
    @abstractmethod
    def create(cls, config: EncoderConfig, generator: torch.Generator | None = None) -> Self:
        """Return an encoder with the weights its configuration asks for.

        Random weights follow from `generator`, without it from a fixed seed; the global generator
        is left as it was.

        Raises:
            EncoderError: the network or its weights cannot be had, or do not fit.
        """

    @classmethod
    @abstractmethod
    def restore(
        cls, config: EncoderConfig, preprocessing: Preprocessing, state: dict[str, Tensor]
    ) -> Self:
        """Return an encoder that was saved: no file, no download and no random number is needed.

        Raises:
            EncoderError: `state` is not of the network that `config` names.
        """

    @abstractmethod
    def forward(self, pixels: Tensor) -> Features:
        """Return the features of normalised pixels [B, 3, h, w], with gradients as they are due."""

    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        """Return the features of images as `preprocessing` reads them, each uint8 [h, w, 3].

        They have no gradient and are those of evaluation mode. All images of one size go through
        the network together.
        """
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self.forward_by_size(pixels)
        finally:
            self.train(was_training)

    def forward_by_size(self, pixels: Sequence[np.ndarray]) -> Features:
        """Return `forward` of images as `preprocessing` reads them, in their order, in float32."""
        device = next(self.parameters()).device
        rows_by_size: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(pixels):
            rows_by_size.setdefault(image.shape, []).append(row)
        parts, order = [], []
        for rows in rows_by_size.values():
            stack = torch.from_numpy(np.stack([pixels[row] for row in rows])).to(device)
            # Its memory stays as it is, which is what convolutions like best.
            normalised = self.preprocessing.normalise(stack.permute(0, 3, 1, 2))
            parts.append(self(normalised).float())
            order += rows
        return parts[0] if len(parts) == 1 else Features.in_order(parts, order)

    def stages(self) -> list[list[str]]:
        """Return the names of the network's parameters by stage, from the pixels to the output."""
        children: dict[str, list[str]] = {}
        for name, _ in self.network.named_parameters():
            children.setdefault(name.partition(".")[0], []).append(name)
        return list(children.values())

    def trainable(self, stages: int | None) -> list[nn.Parameter]:
        """Let all stages learn (None) or the last few (0: none), and return their parameters.

        Raises:
            OptionError: the network has fewer stages.
        """
        groups = self.stages()
        count = len(groups) if stages is None else stages
        if not 0 <= count <= len(groups):
            raise OptionError(
                f"{count} stages of {self.config.name} are to be fine-tuned; give 0 to "
                f"{len(groups)}, or all"
            )
        learning = {name for group in groups[len(groups) - count :] for name in group}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in learning)
        self.train(self.training)
        return [value for value in self.network.parameters() if value.requires_grad]

    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """Return weight [C, D] and bias [C] of the classifier that the weights were trained with.

        It reads the mean over the grid and gives logits of ImageNet's classes in their usual order.
        None where there is none.

        Raises:
            EncoderError: the weights are no longer where they were.
        """
        return None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the network's weights and statistics."""
        return state_hash(self.network)
