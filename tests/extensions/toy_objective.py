"""The distance of every word's probability from 1, with an option and a figure of its own."""

from dataclasses import dataclass

from torch import Tensor

from captioner.decoders import Decoder
from captioner.options import ABOVE_ZERO, option
from training.objectives.interface import (
    DecoderPass,
    Objective,
    ObjectiveBatch,
    ObjectiveOptions,
)


@dataclass(frozen=True, kw_only=True)
class ToyObjectiveOptions(ObjectiveOptions):
    toy_power: float = option(1.0, "power of the distance", within=ABOVE_ZERO)


class ToyObjective(Objective):
    Options = ToyObjectiveOptions

    def __call__(
        self, decoder: Decoder, batch: ObjectiveBatch, run_decoder: DecoderPass
    ) -> tuple[Tensor, dict[str, Tensor]]:
        output = run_decoder(decoder, batch.features, batch.captions)
        hit = output.logits.softmax(1).gather(1, batch.captions.targets.unsqueeze(1))
        distance = (1.0 - hit).pow(self.options.toy_power).mean()
        references = sum(len(of_image) for of_image in batch.references)
        return distance, {"references": distance.new_tensor(float(references))}
