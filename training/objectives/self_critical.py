"""Self-critical training: captions that the model draws itself, made likelier by their score.

The gradient of the expected reward is estimated from K samples of each image (REINFORCE, Williams
1992): the log-probability of a sample times its reward above a baseline, which is the reward of the
greedy caption (Rennie et al. 2017) or the mean of the image's other samples (Luo 2020). The reward
is CIDEr-D with the end of the caption as a word, so that a caption that breaks off loses.

Samples are drawn, and their log-probabilities differentiated, without dropout: both passes are the
model that captions photographs, and the estimate is unbiased. H-detach acts on the second pass as
it does in cross-entropy.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from captioner.decoders import CaptionBatch, Decoder, DecoderOutput
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, option
from captioner.vocabulary import Vocabulary
from training.caption_figures import FUNCTION_WORDS
from training.objectives.caption_reward import CaptionReward, Captions
from training.objectives.cross_entropy import caption_loss, with_terms
from training.objectives.interface import (
    DecoderPass,
    Objective,
    ObjectiveBatch,
    ObjectiveOptions,
)
from training.objectives.sampled_captions import SampledCaptions, forbid, sample_captions
from training.objectives.word_overlap import WordOverlap


@dataclass(frozen=True, kw_only=True)
class SelfCriticalOptions(ObjectiveOptions):
    samples: int = option(5, "captions drawn for each image at each step", within=AT_LEAST_ONE)
    baseline: str = option(
        "samples",
        "what a sample's reward is compared with: the mean of the image's other samples, or the "
        "greedy caption",
        choices=("samples", "greedy"),
    )
    sample_length: int = option(
        20, "most words of a drawn caption; one that is cut there has no end", within=AT_LEAST_ONE
    )
    bleu_weight: float = option(
        0.0,
        "weight of BLEU-4 (0 to 1) in the reward, beside CIDEr-D (0 to 10)",
        within=NOT_NEGATIVE,
    )
    meteor_weight: float = option(
        0.0,
        "weight of METEOR's mean of precision and recall over equal words (0 to 1) in the reward, "
        "beside CIDEr-D; it keeps captions from growing short",
        within=NOT_NEGATIVE,
    )
    unfinished_penalty: float = option(
        0.0,
        "what the reward loses where a caption ends in a function word, such as 'a man in a'",
        within=NOT_NEGATIVE,
    )
    cross_entropy_weight: float = option(
        0.0, "weight of the cross-entropy per word of the references", within=NOT_NEGATIVE
    )

    @property
    def uses_captions_alone(self) -> bool:
        return self.cross_entropy_weight > 0

    def contradictions(self) -> Iterable[str]:
        if self.baseline == "samples" and self.samples < 2:
            yield (
                f"--samples is {self.samples} with --baseline samples, which compares the samples "
                "of an image; give at least 2, or --baseline greedy"
            )


class SelfCritical(Objective):
    Options = SelfCriticalOptions
    needs_trained_model = True
    settings = MappingProxyType(
        {
            "lr": 1.5e-4,
            "lr_schedule": "constant",
            "warmup_steps": 50,
            "average_decay": 0.99,
            "epochs": 8,
        }
    )

    def __init__(self, options: SelfCriticalOptions, vocabulary: Vocabulary) -> None:
        super().__init__(options, vocabulary)
        self._overlap = WordOverlap(vocabulary)
        self._ends_badly = np.array([word in FUNCTION_WORDS for word in vocabulary.words])

    def begin(self, references: Sequence[Captions]) -> None:
        self._reward = CaptionReward(references, self.vocabulary)

    def __call__(
        self, decoder: Decoder, batch: ObjectiveBatch, run_decoder: DecoderPass
    ) -> tuple[Tensor, dict[str, Tensor]]:
        options = self.options
        if not batch.features.grid.shape[1]:  # captions without photographs
            loss, figures = self._cross_entropy(decoder, batch, run_decoder)
            return options.cross_entropy_weight * loss, figures
        with _evaluated(decoder):
            samples = sample_captions(
                decoder,
                batch.features,
                options.samples,
                max_length=options.sample_length,
                generator=run_decoder.draws,
                with_greedy=options.baseline == "greedy",
                product_dtype=run_decoder.product_dtype,
                portion=batch.portion,
                ranks=run_decoder.ranks,
            )
            rewards = self.rewards(samples, batch.references)
            drawn, advantages = self._compared(samples, rewards)
            captions = CaptionBatch.pack(drawn.token_lists(), batch.captions.targets.device)
            output = run_decoder(decoder, batch.features, captions)
        shares = reference_shares(batch.references) * batch.portion.per_reference
        weights = advantages * shares[:, None] / options.samples
        loss = -weighted_log_probs(output, captions, weights, most_words=options.sample_length)
        figures = {
            "reward": rewards[:, : options.samples].mean(),
            "baseline": (rewards[:, : options.samples] - advantages).mean(),
            "sample_length": (drawn.lengths - drawn.is_ended).mean(),
            "samples_ended": drawn.is_ended.mean(),
            "samples_unfinished": self._is_unfinished(drawn).mean(),
        }
        of_all = batch.portion.per_image
        found = {name: torch.tensor(float(value) * of_all) for name, value in figures.items()}
        if options.cross_entropy_weight:
            cross_entropy, its_figures = self._cross_entropy(decoder, batch, run_decoder)
            loss = loss + options.cross_entropy_weight * cross_entropy
            found |= its_figures
        return loss, found

    def rewards(self, samples: SampledCaptions, references: Sequence[Captions]) -> np.ndarray:
        """Return the reward [B, K] of every caption."""
        images, rows, steps = samples.words.shape
        captions = (
            samples.words.reshape(-1, steps),
            samples.lengths.reshape(-1),
            np.repeat(np.arange(images), rows),
            references,
        )
        reward, bleu = self._reward.score(*captions, bleu=self.options.bleu_weight > 0)
        if bleu is not None:
            reward = reward + self.options.bleu_weight * bleu
        if self.options.meteor_weight:
            reward = reward + self.options.meteor_weight * self._overlap.score(*captions)
        reward = reward.reshape(images, rows)
        return reward - self.options.unfinished_penalty * self._is_unfinished(samples)

    def _compared(
        self, samples: SampledCaptions, rewards: np.ndarray
    ) -> tuple[SampledCaptions, np.ndarray]:
        """Return the samples without the greedy captions, and their rewards above the baseline."""
        count = self.options.samples
        drawn = rewards[:, :count]
        if self.options.baseline == "greedy":
            return samples.first(count), drawn - rewards[:, count:]
        others = (drawn.sum(1, keepdims=True) - drawn) / (count - 1)
        return samples, drawn - others

    def _is_unfinished(self, samples: SampledCaptions) -> np.ndarray:
        last = np.maximum(samples.lengths - samples.is_ended - 1, 0)
        words = np.take_along_axis(samples.words, last[:, :, None], 2)[:, :, 0]
        return self._ends_badly[words] & samples.is_ended

    def _cross_entropy(
        self, decoder: Decoder, batch: ObjectiveBatch, run_decoder: DecoderPass
    ) -> tuple[Tensor, dict[str, Tensor]]:
        output = run_decoder(decoder, batch.features, batch.captions)
        loss = caption_loss(output, batch.captions)
        whole, figures = with_terms(loss, output)
        return whole, {"cross_entropy": loss.detach(), **figures}


def reference_shares(references: Sequence[Captions]) -> np.ndarray:
    """Return the share of each image in the loss: its share of all references of the batch.

    CIDEr-D is a mean over an image's references. So every reference counts the same, as each does
    in cross-entropy; against a single one the reward of an image is noisy, and its weight low.
    """
    counts = np.array([len(captions) for captions in references])
    return np.asarray(counts / counts.sum())


def weighted_log_probs(
    output: DecoderOutput, captions: CaptionBatch, weights: np.ndarray, *, most_words: int
) -> Tensor:
    """Return the sum of the captions' log-probabilities, each times its weight.

    They are those of `sample_captions`: of a caption that was cut at `most_words`, the end is no
    part. Logits are changed in place.

    Shapes:
        weights [B, K], for packed captions of which every image has K -> scalar
    """
    row = torch.arange(captions.num_captions, device=output.logits.device)
    of_row = torch.from_numpy(weights)[captions.image_order.cpu()].flatten().to(output.logits)
    parts = []
    for number, step in enumerate(captions.timeline):
        row = row if step.survivors is None else row[step.survivors]
        parts.append(of_row[row] if number < most_words else torch.zeros_like(of_row[row]))
    logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
    forbid(logits, is_first=False)
    forbid(logits[captions.timeline[0].tokens], is_first=True)
    losses = nn.functional.cross_entropy(logits, captions.targets, reduction="none")
    return -(losses * torch.cat(parts)).sum()


@contextmanager
def _evaluated(decoder: Decoder) -> Iterator[None]:
    """Let the decoder run without dropout within the block."""
    was_training = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(was_training)
