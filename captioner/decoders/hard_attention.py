"""Show, Attend and Tell with hard attention (Xu et al. 2015, section 4.1).

The network is that of soft attention. In training a step looks at one position, drawn by its
attention, and no gradient comes back through the draw. So the attention is taught by REINFORCE
(Williams 1992): the log-probability of the positions drawn for a caption, times what the caption's
log-likelihood is above a baseline. For half of the images the weighted mean stands in for the
drawn position, which makes the gradient less noisy and is what a trained model captions with.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.decoders.attention_lstm import Locations, Unrolling
from captioner.decoders.batch import CaptionBatch
from captioner.decoders.interface import DecoderOutput, keep_values
from captioner.decoders.soft_attention import SoftAttention, SoftAttentionOptions
from captioner.features import Features
from captioner.options import NOT_NEGATIVE, PROBABILITY, option

_BASELINE_KEPT = 0.9  # of the baseline, at each batch
_LEAST = 1e-12  # of a weight, lest its logarithm be no number


@dataclass(frozen=True, kw_only=True)
class HardAttentionOptions(SoftAttentionOptions):
    soft_share: float = option(
        0.5,
        "share of the images that training shows as the weighted mean, not by drawn positions",
        within=PROBABILITY,
    )
    reinforce_weight: float = option(
        0.1,
        "weight of the gradient that teaches where to look; at 1, with --soft-share 0, the sum is "
        "the gradient of the expected log-likelihood",
        within=NOT_NEGATIVE,
    )
    attention_entropy: float = option(
        0.002, "weight of the attention's entropy, which is rewarded", within=NOT_NEGATIVE
    )


class MovingBaseline(nn.Module):
    """The mean log-likelihood of a word so far: 0.9 of itself and 0.1 of each batch's."""

    log_likelihood: Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        # At first all words are about equally likely.
        start = torch.tensor(-math.log(vocabulary_size))
        self.register_buffer("log_likelihood", start)

    @torch.no_grad()
    def update(self, log_likelihood: Tensor) -> None:
        self.log_likelihood.lerp_(log_likelihood.to(self.log_likelihood), 1.0 - _BASELINE_KEPT)


class HardAttention(SoftAttention):
    """Decoder that learns to look at one position before every word.

    Captions are found with the weighted mean, the expected value of what a drawn position shows;
    so do the authors (their program's `generate_caps.py` draws only if asked to), who argue in
    section 4.2 that it approximates the mean over all draws. The captions of a photograph are then
    the same each time, and the attention that is shown is that of the draws.

    Source:
        Xu et al. 2015, section 4.1, with one change: the baseline is one of a word, times the words
        of the caption. The authors' batches hold captions of one length, those of this project do
        not, and a baseline may depend on anything but the draws.
    """

    name = "hard_attention"
    samples_in_training = True
    Options = HardAttentionOptions

    def make_training_part(self) -> MovingBaseline:
        return MovingBaseline(self.vocabulary_size)

    def forward(
        self,
        features: Features,
        batch: CaptionBatch,
        *,
        keep: Tensor | None = None,
        generator: torch.Generator | None = None,
        product_dtype: torch.dtype | None = None,
        draws: torch.Generator | None = None,
    ) -> DecoderOutput:
        """Return the output of a training pass; positions are drawn from `draws`.

        In evaluation mode, and without the training part, it is that of soft attention.
        """
        baseline = self.training_part
        if not self.training or not isinstance(baseline, MovingBaseline):
            return super().forward(
                features, batch, keep=keep, generator=generator, product_dtype=product_dtype
            )
        options: HardAttentionOptions = self.options
        locations = draw_locations(batch, options.soft_share, draws, features.grid.dtype)
        kept = keep_values(keep, batch.steps)
        unrolling = Unrolling(batch, kept, options.detach_attention, product_dtype, locations)
        output, attention, chosen = self.unroll(features, unrolling, generator)

        log_likelihood = _log_likelihood(output.logits, batch)
        above = log_likelihood - baseline.log_likelihood  # of each word
        caption = batch.captions_of_tokens()
        advantage = above.new_zeros(batch.num_captions).index_add_(0, caption, above)[caption]
        log_weights = attention.clamp_min(_LEAST).log()
        log_chosen = log_weights.gather(1, chosen.unsqueeze(1)).squeeze(1)
        reinforced = (advantage * log_chosen)[locations.is_drawn].sum() / batch.num_tokens
        entropy = -(attention * log_weights).sum(1).mean()
        figures = {
            "location_baseline": baseline.log_likelihood.clone(),
            "location_entropy": entropy.detach(),
        }
        if locations.is_drawn.any():
            baseline.update(log_likelihood[locations.is_drawn].mean())
        terms = {
            "reinforced": -options.reinforce_weight * reinforced,
            "rewarded_entropy": -options.attention_entropy * entropy,
        }
        return output._replace(terms=terms, figures=figures)


def draw_locations(
    batch: CaptionBatch,
    soft_share: float,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> Locations:
    """Draw which images are looked at by drawn positions, and the numbers that draw them."""
    device = batch.targets.device
    shares = torch.rand(len(batch.image_order), generator=generator, device=device)
    uniform = torch.rand(batch.num_tokens, generator=generator, device=device, dtype=dtype)
    return Locations((shares >= soft_share)[batch.images_of_tokens()], uniform)


@torch.no_grad()
def _log_likelihood(logits: Tensor, batch: CaptionBatch) -> Tensor:
    """Return the log-probability of each right word: [tokens]."""
    return -nn.functional.cross_entropy(logits, batch.targets, reduction="none")
