"""The model that a service runs: a checkpoint with its name and hash."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from captioner.captioner import Caption, Captioner


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """What a request asks for.

    Raises:
        OptionError: an option is out of range, or num_captions exceeds beam_size.
    """

    beam_size: int = 3
    num_captions: int = 1
    max_length: int = 20
    attention: bool = False


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A captioner that has proved it runs."""

    captioner: Captioner
    name: str  # of the run, such as "flickr8k"
    hash: str  # SHA-256 of the checkpoint's contents
    folder: Path
    loaded_at: float  # seconds since the epoch


def load_model(folder: Path, device: str = "cpu") -> LoadedModel:
    """Return the model in a checkpoint's or a run's folder, warmed up; this blocks for seconds.

    Raises:
        CheckpointError: it is no sound checkpoint, or cannot caption an image.
        OptionError: there is no such device.
    """
    raise NotImplementedError


def newest_checkpoint(root: Path) -> Path:
    """Return the best checkpoint of the run in `root` that was saved last.

    Raises:
        CheckpointError: there is none; the message says what to do.
    """
    raise NotImplementedError


def captions_of_batch(
    model: LoadedModel, pixels: Sequence[Tensor], options: Sequence[CaptionOptions]
) -> tuple[list[list[Caption]], float, float]:
    """Return the captions of every image, and the seconds of the encoder and of the search."""
    raise NotImplementedError
