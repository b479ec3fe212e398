"""Scores of an evaluation, the counts behind them, and their table."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from captioner.metrics.ngram_metrics import BleuCounts

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
    """Return the overall scores as lines of plain text, and a last line saying of what."""
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
    return "\n".join(lines)


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(figure) else figure for name, figure in figures.items()}
