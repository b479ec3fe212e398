"""A single convolution, whose map is averaged to the grid."""

import torch
from torch import Tensor, nn

from captioner.encoder.config import EncoderConfig
from captioner.encoder.interface import Encoder
from captioner.encoder.preprocessing import Preprocessing
from captioner.features import Features


class ToyEncoder(Encoder):
    feature_size = 6

    @classmethod
    def create(
        cls, config: EncoderConfig, generator: torch.Generator | None = None
    ) -> "ToyEncoder":
        convolution = nn.Conv2d(3, cls.feature_size, 4, 4)
        for parameter in convolution.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        side = config.image_size or 32
        preprocessing = Preprocessing(image_size=side, image_mode="squash", crop_fraction=1.0)
        return cls(config, preprocessing, convolution)

    @classmethod
    def restore(
        cls, config: EncoderConfig, preprocessing: Preprocessing, state: dict[str, Tensor]
    ) -> "ToyEncoder":
        convolution = nn.Conv2d(3, cls.feature_size, 4, 4)
        convolution.load_state_dict(state)
        return cls(config, preprocessing, convolution)

    def forward(self, pixels: Tensor) -> Features:
        grid = nn.functional.adaptive_avg_pool2d(self.network(pixels).relu(), self.grid)
        return Features(grid.flatten(2).mT.contiguous())
