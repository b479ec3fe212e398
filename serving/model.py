"""The model that a service runs: a checkpoint with its name and hash, tried out before it serves.

`captions_of_batch` is the library's own path from pixels to captions, so a photograph gets here, in
any batch and beside any options, what `captioner caption` gives it with as many threads.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from captioner.captioner import Caption, Captioner, load
from captioner.checkpoint_folders import find_checkpoint
from captioner.errors import CheckpointError
from captioner.search_config import SearchConfig


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """What a request asks for.

    Raises:
        OptionError: an option is out of range, or num_captions exceeds beam_size.
    """

    beam_size: int = SearchConfig.beam_size
    num_captions: int = SearchConfig.num_captions
    max_length: int = SearchConfig.max_length  # words
    attention: bool = False  # whether the answer is to show it; the captions are the same

    def __post_init__(self) -> None:
        self.search_config()

    def search_config(self) -> SearchConfig:
        """Return what the search is told."""
        return SearchConfig(
            beam_size=self.beam_size, num_captions=self.num_captions, max_length=self.max_length
        )


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A captioner that has captioned a picture."""

    captioner: Captioner
    name: str  # of the run, such as "flickr8k"
    hash: str  # SHA-256 of the checkpoint's contents
    folder: Path
    loaded_at: float  # seconds since the epoch
    seconds_per_image: float = 0.05  # alone, as far as one picture tells


def load_model(folder: Path, device: str = "cpu") -> LoadedModel:
    """Return the model in a checkpoint's or a run's folder, warmed up; this blocks for seconds.

    Raises:
        CheckpointError: it is no sound checkpoint, or cannot caption a picture.
        OptionError: there is no such device.
    """
    folder = find_checkpoint(Path(folder))
    captioner = load(folder, device)
    whole = folder.resolve()
    model = LoadedModel(
        captioner=captioner,
        name=whole.parent.name if whole.name in ("best", "last") else whole.name,
        hash=captioner.hash,
        folder=folder,
        loaded_at=time.time(),
    )
    grey = captioner.preprocessing.resize(Image.new("RGB", (640, 480), "grey"))
    try:
        # The first picture pays for what is set up once.
        captions_of_batch(model, [grey], [CaptionOptions()])
        _, encoding, searching = captions_of_batch(model, [grey], [CaptionOptions()])
    except Exception as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise CheckpointError(
            f"checkpoint {folder} cannot caption a picture ({reason[:200]}); take another"
        ) from problem
    return replace(model, seconds_per_image=encoding + searching)


def captions_of_batch(
    model: LoadedModel, pixels: Sequence[Tensor], options: Sequence[CaptionOptions]
) -> tuple[list[list[Caption]], float, float]:
    """Return the captions of every image, and the seconds of the encoder and of the search.

    All beams of all images share one search. An image's captions and figures are those it gets
    alone.
    """
    began = time.perf_counter()
    features = model.captioner.features_of_pixels(pixels)
    encoded = time.perf_counter()
    configs = [one.search_config() for one in options]
    captions = model.captioner.captions_of_features(features, configs)
    return captions, encoded - began, time.perf_counter() - encoded
