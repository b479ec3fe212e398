"""Cross-entropy of every word given the words before it, with the options of Xu et al. 2015."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.decoders import CaptionBatch, Decoder, DecoderOutput
from captioner.options import NOT_NEGATIVE, SHARE, option
from training.objectives.interface import (
    DecoderPass,
    Objective,
    ObjectiveBatch,
    ObjectiveOptions,
)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyOptions(ObjectiveOptions):
    label_smoothing: float = option(
        0.0, "probability that the target spreads over all words", within=SHARE
    )
    attention_regulariser: float = option(
        0.0,
        "weight of the doubly stochastic attention penalty of Xu et al. 2015",
        within=NOT_NEGATIVE,
    )

    def contradictions_with(self, decoder: type[Decoder]) -> Iterable[str]:
        if self.attention_regulariser and not decoder.has_attention:
            yield f"--attention-regulariser needs attention; {decoder.name} has none"


class CrossEntropy(Objective):
    Options = CrossEntropyOptions

    def __call__(
        self, decoder: Decoder, batch: ObjectiveBatch, run_decoder: DecoderPass
    ) -> tuple[Tensor, dict[str, Tensor]]:
        output = run_decoder(decoder, batch.features, batch.captions)
        loss = caption_loss(
            output,
            batch.captions,
            label_smoothing=self.options.label_smoothing,
            attention_regulariser=(self.options.attention_regulariser * batch.portion.per_caption),
        )
        return with_terms(loss, output)


def with_terms(loss: Tensor, output: DecoderOutput) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the cross-entropy with the decoder's own terms, and each of them as a figure."""
    if not output.terms:
        return loss, dict(output.figures)
    parts = {"cross_entropy": loss, **output.terms}
    figures = {name: part.detach() for name, part in parts.items()}
    return torch.stack([*parts.values()]).sum(), {**figures, **output.figures}


def caption_loss(
    output: DecoderOutput,
    batch: CaptionBatch,
    *,
    label_smoothing: float = 0.0,
    attention_regulariser: float = 0.0,
) -> Tensor:
    """Return the mean cross-entropy per word, plus the doubly stochastic term.

    Source:
        Xu et al. 2015, equation 14: attention_regulariser * sum_i (1 - sum_t alpha_ti)^2 over the
        positions i, averaged over captions.
    """
    loss = nn.functional.cross_entropy(
        output.logits, batch.targets, label_smoothing=label_smoothing
    )
    if attention_regulariser > 0.0 and output.attention is not None:
        loss = loss + attention_regulariser * _uneven_attention(output.attention, batch)
    return loss


def _uneven_attention(attention: Tensor, batch: CaptionBatch) -> Tensor:
    total = attention.new_zeros(batch.num_captions, attention.shape[1])
    total = total.index_add(0, batch.captions_of_tokens(), attention)
    return (1.0 - total).square().sum(1).mean()
