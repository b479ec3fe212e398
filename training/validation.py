"""Captions for many images, and their scores.

Validation writes captions as a user would get them (search, no teacher forcing) and scores them
with pycocoevalcap's metrics; `evaluate_coco.py` does the same for a finished checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from captioner.control import control_of
from captioner.data.karpathy import CaptionedImage
from captioner.data.shapes import named_rightly
from captioner.engines import Engine
from captioner.files import write_json
from captioner.metrics import Scorer, Scores
from captioner.prefetch import prefetched
from captioner.progress import Progress
from captioner.search_config import SearchConfig
from captioner.vocabulary import Vocabulary
from training.caption_figures import caption_figures, figures_line
from training.distributed import ALONE, Ranks
from training.feature_sources import ImageSource, Read

SHAPES_NAMED = "shapes_named"  # share of images of the built-in sample with every shape right


@dataclass(frozen=True)
class Validation:
    """The scores of one validation, and the captions by image id."""

    scores: Scores
    captions: dict[int, list[str]]
    shapes_named: float | None

    @property
    def figures(self) -> dict[str, float]:
        """All scores of the whole set, by name, and what they overlook.

        Of several sets also the scores of each: `cider/NAME`.
        """
        named = {} if self.shapes_named is None else {SHAPES_NAMED: self.shapes_named}
        of_sets = {
            f"{metric.lower()}/{name}": score
            for name, scores in self.scores.by_set.items()
            for metric, score in scores.items()
        }
        overlooked = caption_figures(self.captions.values())
        return {**self.scores.overall, **overlooked, **named, **of_sets}


class Validator:
    """Captions and scores the same images again and again, with a scorer that stays warm."""

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        vocabulary: Vocabulary,
        search_config: SearchConfig,
        *,
        batch_size: int,
    ) -> None:
        self.images = [image for image in images if any(image.captions)]
        self._indices = [index for index, image in enumerate(images) if any(image.captions)]
        self._vocabulary = vocabulary
        self._search_config = search_config
        self._control = control_of(search_config, vocabulary)
        self._batch_size = batch_size
        self._scorer: Scorer | None = None
        self._scored: set[int] = set()  # ids that the scorer holds references of

    def close(self) -> None:
        """End the external program of the scorer."""
        if self._scorer is not None:
            self._scorer.close()

    def captions(
        self,
        engine: Engine,
        source: ImageSource,
        ranks: Ranks = ALONE,
        *,
        description: str = "validation",
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> dict[int, list[str]] | None:
        """Return the captions of all readable images by id; the modules must be in eval mode.

        Several processes share out the batches. None where `is_stopping` became true in one of
        them before all were captioned.
        """
        starts = range(0, len(self._indices), self._batch_size)[ranks.rank :: ranks.size]
        batches = [self._indices[start : start + self._batch_size] for start in starts]
        own = self._own_captions(
            engine, source, batches, description, is_stopping, shows_progress=ranks.is_first
        )
        found = ranks.gather(own)
        captions: dict[int, list[str]] = {}
        for of_rank in found:
            if of_rank is None:
                return None
            captions |= of_rank
        return {
            image.image_id: captions[image.image_id]
            for image in self.images
            if image.image_id in captions
        }

    def _own_captions(
        self,
        engine: Engine,
        source: ImageSource,
        batches: Sequence[Sequence[int]],
        description: str,
        is_stopping: Callable[[], bool],
        *,
        shows_progress: bool,
    ) -> dict[int, list[str]] | None:
        """Return the captions of these batches by id."""

        def reads() -> Iterator[Read]:
            for batch in batches:
                yield source.read(batch)

        captions: dict[int, list[str]] = {}
        image_of = dict(zip(self._indices, self.images, strict=True))
        total = sum(map(len, batches))
        with Progress(total, description, unit="images", enabled=shows_progress) as progress:
            for read in prefetched(reads()):
                if not read.indices:
                    continue
                with torch.no_grad():
                    features = source.features(read)
                    found = engine.search(
                        features, self._search_config, [self._control] * len(features)
                    )
                if is_stopping():
                    return None
                for index, best in zip(read.indices, found, strict=True):
                    words = self._vocabulary.decode(best[0].words)
                    captions[image_of[index].image_id] = words
                progress.advance(len(found))
        return captions

    def score(self, captions: Mapping[int, Sequence[str]]) -> Validation:
        """Return captions, by id, and their scores."""
        scorer = self._scorer_of(captions.keys())
        return Validation(
            scorer.score({key: " ".join(words) for key, words in captions.items()}),
            {key: list(words) for key, words in captions.items()},
            share_of_shapes_named(self.images, captions),
        )

    def _scorer_of(self, readable: Set[int]) -> Scorer:
        """Return the scorer of these images: all but the broken ones, so mostly the same one."""
        if self._scorer is None or readable != self._scored:
            self.close()
            self._scored = set(readable)
            images = [image for image in self.images if image.image_id in readable]
            sets: dict[str, list[int]] = {}
            for image in images:
                if image.dataset:
                    sets.setdefault(image.dataset, []).append(image.image_id)
            self._scorer = Scorer({image.image_id: image.captions for image in images}, sets=sets)
        return self._scorer


def share_of_shapes_named(
    images: Sequence[CaptionedImage], captions: Mapping[int, Sequence[str]]
) -> float | None:
    """Return the share of captioned images with colour and kind of every shape named rightly.

    None where the images are not of the built-in sample.
    """
    marks = [
        named_rightly(captions[image.image_id], image.extra["scene"])
        for image in images
        if image.image_id in captions and "scene" in image.extra
    ]
    return sum(marks) / len(marks) if marks else None


def write_captions(
    path: Path, images: Sequence[CaptionedImage], captions: Mapping[int, Sequence[str]]
) -> None:
    """Write COCO's results format, with the file's name and the references beside each caption.

    Of several data sets, also which an image is of and its id there.
    """
    write_json(
        path,
        [
            {
                "image_id": image.image_id,
                "caption": " ".join(captions[image.image_id]),
                "filename": image.filename,
                "references": list(image.captions),
                **({"dataset": image.dataset, "own_id": image.own_id} if image.dataset else {}),
            }
            for image in images
            if image.image_id in captions
        ],
    )


def scores_line(scores: Mapping[str, float]) -> str:
    """Return the scores that matter in one line."""
    parts = [f"{name} {scores[name]:.4f}" for name in ("CIDEr", "METEOR", "Bleu_4")]
    if SHAPES_NAMED in scores:
        parts.append(f"all shapes named rightly {scores[SHAPES_NAMED]:.1%}")
    of_sets = [
        f"{name.removeprefix('cider/')} {score:.4f}"
        for name, score in scores.items()
        if name.startswith("cider/")
    ]
    if of_sets:
        parts[0] += f" ({', '.join(of_sets)})"
    if "caption_length" in scores:
        parts.append(figures_line(scores))
    return ", ".join(parts)
