"""The model that a service runs: a checkpoint with name and hash, tried out before it serves."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.captioner import Captioner, load
from captioner.checkpoint_folders import SHIPPED, SHIPPED_NAME, find_checkpoint
from captioner.errors import CheckpointError
from captioner.search_config import SearchConfig
from captioner.text import in_one_line
from serving.batching import captions_of_batch


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A captioner that has captioned a picture."""

    captioner: Captioner
    name: str  # of the run, such as "flickr8k"
    hash: str  # SHA-256 of the checkpoint's contents
    folder: Path
    loaded_at: float  # seconds since the epoch
    seconds_per_image: float = 0.05  # alone, as far as one picture tells
    # `Engine.describe()`: its name, threads, and each part's precision
    engine: dict[str, Any] = field(default_factory=dict)


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


def name_of(folder: Path) -> str:
    """Return what a model is called: its folder's name, or that of its run."""
    if folder == SHIPPED.resolve():
        return SHIPPED_NAME
    return folder.parent.name if folder.name in ("best", "last") else folder.name
