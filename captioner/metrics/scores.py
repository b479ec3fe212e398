"""Scores of an evaluation, the counts behind them, and their table."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from captioner.metrics.ngram_metrics import BleuCounts

FEW_IMAGES = 10  # below which CIDEr says little
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a set of captions, under the names that pycocoevalcap prints.

    `overall` holds one figure per metric, `per_image` the same for each image; BLEU of a set is
    not the mean of its images. `signature` says what was compared, and with which tools.
    """

    overall: Mapping[str, float]
    per_image: Mapping[Hashable, Mapping[str, float]]
    bleu_counts: BleuCounts
    signature: Mapping[str, Any]

    def __getitem__(self, metric: str) -> float:
        return self.overall[metric]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about figures that do not mean what they seem to."""
        images = len(self.per_image)
        if images >= FEW_IMAGES:
            return ()
        says = "it is 0 for any caption" if images == 1 else "it says little"
        return (
            f"CIDEr needs more images: it weighs words by how few images have them, so with "
            f"{images} {'image' if images == 1 else 'images'} {says}",
        )

    def to_json(self, *, per_image: bool = False) -> dict[str, Any]:
        """Return a value that JSON can hold: the metrics, then what they were counted from.

        With `per_image` it also lists every image's own scores under "images". What is not a
        number, as SPICE may be, becomes null.
        """
        value: dict[str, Any] = {
            **_without_nan(self.overall),
            "bleu_counts": {
                name: list(count) if isinstance(count, tuple) else count
                for name, count in asdict(self.bleu_counts).items()
            },
            "signature": dict(self.signature),
        }
        if per_image:
            value["images"] = [
                {"image_id": key, **_without_nan(figures)}
                for key, figures in self.per_image.items()
            ]
        return value


def scores_table(scores: Scores) -> str:
    """Return the overall scores as lines of plain text, with what was scored, and notes."""
    width = max(len(name) for name in METRICS)
    lines = [
        f"{name:<{width}}  {scores.overall[name]:8.4f}"
        for name in METRICS
        if name in scores.overall
    ]
    signature = scores.signature
    lines.append(
        f"{signature['images']:,} images, {signature['references']:,} references, "
        f"tokeniser: {signature['tokenizer']}"
    )
    return "\n".join([*lines, *(f"note: {note}" for note in scores.notes)])


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(figure) else figure for name, figure in figures.items()}
