"""Twin networks (Serdyuk et al. 2018): in training, a twin reads every caption from its end.

The twin is a second decoder of the same kind with weights of its own. Before word t the forward
state h_t knows the words before t, and the twin's state b_t those after it. An affine map g of the
forward state is to foresee the twin's:

    loss = -sum_t log p(w_t | w_<t) - sum_t log q(w_t | w_>t) + a mean (g(h_t) - b_t)^2

The distance moves the forward decoder and g alone: for it, b_t is a constant. Captions are written
by the forward decoder, and of the twin and of g nothing is left then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from captioner.decoders.batch import CaptionBatch
from captioner.decoders.interface import Decoder, DecoderOptions, DecoderOutput
from captioner.decoders.show_tell import ShowTell
from captioner.decoders.soft_attention import SoftAttention, SoftAttentionOptions
from captioner.features import Features
from captioner.options import NOT_NEGATIVE, Options, option


@dataclass(frozen=True, kw_only=True)
class TwinOptions(Options):
    twin_weight: float = option(
        1.5, "weight of the distance between forward and twin states", within=NOT_NEGATIVE
    )


@dataclass(frozen=True, kw_only=True)
class TwinNetOptions(TwinOptions, DecoderOptions):
    """The options of Show and Tell with a twin."""


@dataclass(frozen=True, kw_only=True)
class TwinNetAttentionOptions(TwinOptions, SoftAttentionOptions):
    """The options of soft attention with a twin."""


class BackwardTwin(nn.Module):
    """The twin, and the map to its states."""

    def __init__(self, twin: Decoder) -> None:
        super().__init__()
        self.twin = twin
        self.affine = nn.Linear(twin.options.hidden_size, twin.options.hidden_size)

    def forward(
        self, forward_states: Tensor, features: Features, batch: CaptionBatch, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the twin's cross-entropy per word, and the mean squared distance of the states.

        Shapes:
            forward_states [tokens, H]; `settings` are those of the forward decoder's pass
        """
        captions, mirror = batch.reversed()
        output: DecoderOutput = self.twin(features, captions, **settings)
        assert output.hidden is not None
        distance = self.affine(forward_states) - output.hidden[mirror].detach()
        loss = nn.functional.cross_entropy(output.logits, captions.targets)
        return loss, distance.square().mean()


class _Twinned(Decoder):
    """What the decoders with a twin have in common; `kind` is that of both directions."""

    kind: ClassVar[type[Decoder]]

    def make_training_part(self) -> BackwardTwin:
        return BackwardTwin(self.kind(self.options, self.vocabulary_size, self.feature_size))

    def forward(self, features: Features, batch: CaptionBatch, **settings: Any) -> DecoderOutput:
        output = super().forward(features, batch, **settings)
        return output._replace(terms=self._terms(output, features, batch, settings))

    def _terms(
        self,
        output: DecoderOutput,
        features: Features,
        batch: CaptionBatch,
        settings: Mapping[str, Any],
    ) -> Mapping[str, Tensor]:
        if not self.training or self.training_part is None:
            return {}
        loss, distance = self.training_part(output.hidden, features, batch, **settings)
        return {"twin_cross_entropy": loss, "twin": self.options.twin_weight * distance}


class TwinNet(_Twinned, ShowTell):
    """Show and Tell, trained with a twin.

    Source:
        Serdyuk et al. 2018, section 2, with a squared distance, the mean over units, and the weight
        1.5, both as in a public reproduction of their experiments on captions. H-detach cuts the
        twin's hidden states at the same steps of its own way from the end.
    """

    name = "twinnet"
    kind = ShowTell
    Options = TwinNetOptions


class TwinNetAttention(_Twinned, SoftAttention):
    """Soft attention, trained with a twin that attends by itself; the attributes are the same."""

    name = "twinnet_attention"
    kind = SoftAttention
    Options = TwinNetAttentionOptions

    def make_training_part(self) -> BackwardTwin:
        part = super().make_training_part()
        if self.attribute_items is not None:
            twin = part.twin
            assert isinstance(twin, SoftAttention)
            assert twin.attribute_items is not None
            twin.attribute_items.detector = self.attribute_items.detector
        return part
