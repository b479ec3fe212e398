"""The model that a service runs: a checkpoint with name and hash, tried out before it serves."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioner.captioner import Caption, Captioner, load
from captioner.checkpoint_folders import SHIPPED, SHIPPED_NAME, find_checkpoint
from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import CheckpointError
from captioner.search_config import SearchConfig
from captioner.text import in_one_line
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedModel:
    """What requests need to know of a model, wherever it runs."""

    name: str  # of the run, such as "flickr8k"
    hash: str  # SHA-256 of the checkpoint's contents
    folder: Path
    loaded_at: float  # seconds since the epoch
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    has_confidence: bool = False  # its captions have one, as it was calibrated
    seconds_per_image: float = 0.05  # alone, as far as one picture tells
    # `Engine.describe()`: its name, threads, and each part's precision
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel(ServedModel):
    """A model in this process, which has captioned a picture."""

    captioner: Captioner

    def without_weights(self) -> ServedModel:
        """Return what is known of it, for another process."""
        return ServedModel(**{one.name: getattr(self, one.name) for one in fields(ServedModel)})


def load_model(
    folder: Path, device: str = "cpu", engine: str | None = None, threads: int | None = None
) -> LoadedModel:
    """Return the model in an exported folder, a checkpoint's or a run's, warmed up; this blocks.

    Raises:
        CheckpointError: it is no sound checkpoint, or cannot caption a picture.
        OptionError: there is no such device, or no such engine.
    """
    folder = find_checkpoint(Path(folder))
    captioner = load(folder, device, engine, threads)
    model = LoadedModel(
        captioner=captioner,
        name=name_of(folder.resolve()),
        hash=captioner.hash,
        folder=folder,
        loaded_at=time.time(),
        engine=captioner.engine.describe(),
        vocabulary=captioner.vocabulary,
        preprocessing=captioner.preprocessing,
        has_confidence=captioner.confidence_curve is not None,
    )
    grey = captioner.preprocessing.resize(Image.new("RGB", (640, 480), "grey"))
    try:
        # The first picture pays for what is set up once.
        captions_of_batch(model, [grey], [SearchConfig()])
        _, encoding, searching = captions_of_batch(model, [grey], [SearchConfig()])
    except Exception as problem:
        reason = in_one_line(problem)
        raise CheckpointError(
            f"checkpoint {folder} cannot caption a picture ({reason[:200]}); take another"
        ) from problem
    return replace(model, seconds_per_image=encoding + searching)


def captions_of_batch(
    model: LoadedModel, pixels: Sequence[np.ndarray], configs: Sequence[SearchConfig]
) -> tuple[list[list[Caption]], float, float]:
    """Return the captions of every image, and the seconds of the encoder and of the search.

    All beams of all images share one search. An image's captions and figures are those it gets
    alone, and from `captioner caption` with as many threads.
    """
    began = time.perf_counter()
    features = model.captioner.features_of_pixels(pixels)
    encoded = time.perf_counter()
    captions = model.captioner.captions_of_features(features, configs)
    return captions, encoded - began, time.perf_counter() - encoded


def name_of(folder: Path) -> str:
    """Return what a model is called: its folder's name, or that of its run."""
    # In the image the model in the box is a link to the folder that is served, "default".
    if folder == SHIPPED.parent.resolve() / SHIPPED.name:
        return SHIPPED_NAME
    return folder.parent.name if folder.name in ("best", "last") else folder.name
