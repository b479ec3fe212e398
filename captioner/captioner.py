"""The captioner: `load` a model, `caption` photographs.

    import captioner
    for caption in captioner.load().caption(["dog.jpg"]):
        print(caption.text, caption.confidence)

The evaluation uses the same encoder, preprocessing and search, so its scores hold for captions made
here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

import numpy as np
from PIL import Image

from captioner.checkpoint_folders import find_checkpoint, shipped_model
from captioner.confidence import ConfidenceCurve, read_confidence_curve
from captioner.control import control_of
from captioner.cores import available_cores
from captioner.data.images import ImageSource
from captioner.engines import Engine, load_engine
from captioner.errors import OptionError
from captioner.features import Features
from captioner.options import is_count
from captioner.search_config import ControlOptions, SearchConfig
from captioner.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

    from captioner.search import Hypothesis

DEFAULTS = SearchConfig()
BATCH_SIZE = 16  # images
READING_THREADS = 4
_LEAST_SHARE = 1e-12  # of the attention that the photograph has, lest its shares be no numbers


class Attribute(NamedTuple):
    """A word for something that the model found in the photograph before it wrote a caption."""

    word: str
    probability: float  # that it is there, as its detector says


@dataclass(frozen=True, kw_only=True, eq=False)
class Caption:
    """One caption of one photograph."""

    text: str  # the tokens joined by blanks: lower case, no punctuation
    tokens: tuple[str, ...]
    log_prob: float  # natural logarithm of the probability the decoder gives the whole caption
    score: float  # log_prob / tokens ** length_power, what captions are ranked by
    attention: np.ndarray | None  # float32 [tokens, rows, columns], each word's summing to 1
    token_log_probs: tuple[float, ...]  # of each token, and of the end after them unless it was cut
    confidence: float | None = None
    """The chance that it agrees with people's as well as half of theirs do with each other.

    None where the model was not calibrated; see `captioner.confidence`.
    """
    attributes: tuple[Attribute, ...] = ()  # the most probable first
    attribute_attention: np.ndarray | None = None
    """float32 [tokens, attributes], the share of each word's attention that each attribute had.

    The rest of it was on the photograph, where `attention` says, and on what `shares` names.
    """
    shares: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of what is attended to beside photograph and attributes, such as adaptive attention's
    sentinel, its share of each word's attention: float32 [tokens] by name."""

    @property
    def probability(self) -> float:
        """The probability that the decoder gives to exactly this caption, from 0 to 1."""
        return math.exp(self.log_prob)

    @property
    def word_probabilities(self) -> tuple[float, ...]:
        """The probability of each token after those before it, from 0 to 1."""
        return tuple(map(math.exp, self.token_log_probs[: len(self.tokens)]))

    @property
    def end_probability(self) -> float | None:
        """The probability that the caption ends where it does; None where it was cut."""
        each = self.token_log_probs
        return math.exp(each[-1]) if len(each) > len(self.tokens) else None


class Captioner:
    """A model and its vocabulary, ready for photographs."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        hash: str = "",  # noqa: A002
        confidence_curve: ConfidenceCurve | None = None,
    ) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self.hash = hash  # SHA-256 of the model's folder, empty where there is none
        self.confidence_curve = confidence_curve
        self.preprocessing = engine.preprocessing

    def caption(
        self,
        images: Iterable[ImageSource],
        *,
        beam_size: int = DEFAULTS.beam_size,
        max_length: int = DEFAULTS.max_length,
        length_power: float = DEFAULTS.length_power,
        batch_size: int = BATCH_SIZE,
        **control: Unpack[ControlOptions],
    ) -> list[Caption]:
        """Return the best caption of each image: a path, an open PIL image, bytes or a file.

        `beam_size` 1 is greedy search; `max_length` counts words. `control` is what captions are to
        hold, to leave out or not to repeat, or has them drawn: `captioner.ControlOptions`.

        Raises:
            ImageError: an image is missing or cannot be read; the message names it.
            OptionError: an option is out of range, or the model does not know a word.
        """
        found = self.captions(
            images,
            num_captions=1,
            beam_size=beam_size,
            max_length=max_length,
            length_power=length_power,
            batch_size=batch_size,
            **control,
        )
        return [captions[0] for captions in found]

    def captions(
        self,
        images: Iterable[ImageSource],
        *,
        num_captions: int,
        beam_size: int | None = None,
        max_length: int = DEFAULTS.max_length,
        length_power: float = DEFAULTS.length_power,
        batch_size: int = BATCH_SIZE,
        **control: Unpack[ControlOptions],
    ) -> list[list[Caption]]:
        """Return the `num_captions` best captions of each image, all different, the best first.

        Without `beam_size` the beam is as wide as that needs, and at least 3. `control` as in
        `caption`; captions that are drawn may be equal.

        Raises:
            ImageError: an image is missing or cannot be read; the message names it.
            OptionError: an option is out of range, or the model does not know a word.
        """
        if not isinstance(images, Iterable) or isinstance(images, str | bytes | Image.Image):
            raise OptionError(f"images is {images!r:.80}; give a list, [image] for a single one")
        if not is_count(batch_size):
            raise OptionError(f"batch_size is {batch_size!r}; a batch holds at least 1 image")
        config = SearchConfig.for_captions(
            num_captions, beam_size, max_length=max_length, length_power=length_power, **control
        )
        result = []
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            pixels = self._read(batch)
            result += self.captions_of_pixels(pixels, config)
        return result

    def _read(self, images: Sequence[ImageSource]) -> list[np.ndarray]:
        """Return the pixels of images, a few at a time where no two can be the same open one.

        Each is resized as soon as it is open: a batch of opened photographs could fill the memory.
        """
        if len(images) == 1 or not all(isinstance(one, str | Path | bytes) for one in images):
            return [self.preprocessing.read(image) for image in images]
        # More than there are cores are slower; a second one reads while the first waits for a disk.
        most = min(READING_THREADS, max(2, available_cores()))
        with ThreadPoolExecutor(min(most, len(images))) as threads:
            return list(threads.map(self.preprocessing.read, images))

    def captions_of_pixels(
        self, pixels: Sequence[np.ndarray], config: SearchConfig | Sequence[SearchConfig]
    ) -> list[list[Caption]]:
        """Return the captions of one batch of images that were made ready elsewhere.

        With a configuration for each, all are still searched for in one batch. An image gets the
        same captions in any batch, but for near ties.

        Shapes:
            pixels: for each image uint8 [height, width, 3], as `preprocessing.read` gives it.
        """
        return self.captions_of_features(self.features_of_pixels(pixels), config)

    def features_of_pixels(self, pixels: Sequence[np.ndarray]) -> Features:
        """Return the features of images, each uint8 [height, width, 3]."""
        return self.engine.encode(pixels)

    def captions_of_features(
        self, features: Features, config: SearchConfig | Sequence[SearchConfig]
    ) -> list[list[Caption]]:
        """Return the captions of images whose features are known, as `captions_of_pixels`."""
        configs = [config] * len(features) if isinstance(config, SearchConfig) else config
        controls = [control_of(one, self.vocabulary) for one in configs]
        return [
            [self._caption(hypothesis) for hypothesis in hypotheses]
            for hypotheses in self.engine.search(features, configs, controls)
        ]

    def _caption(self, hypothesis: "Hypothesis") -> Caption:
        tokens = tuple(self.vocabulary.decode(hypothesis.words))
        words, curve = self.vocabulary.words, self.confidence_curve
        attention, on_attributes, shares = self._attention(hypothesis)
        each = hypothesis.token_log_probs
        return Caption(
            text=" ".join(tokens),
            tokens=tokens,
            log_prob=hypothesis.log_prob,
            score=hypothesis.score,
            attention=attention,
            token_log_probs=each,
            confidence=curve.confidence(each) if curve is not None else None,
            attributes=tuple(Attribute(words[one], found) for one, found in hypothesis.attributes),
            attribute_attention=on_attributes,
            shares=shares,
        )

    def _attention(
        self, hypothesis: "Hypothesis"
    ) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, np.ndarray]]:
        """Return where each word looked on the photograph, and how much at all else."""
        looked, names = hypothesis.attention, self.engine.share_names
        if looked is None:
            return None, None, {}
        side, items = self.engine.grid, looked.shape[1] - len(names)
        positions = items - len(hypothesis.attributes)  # none, where it looks at attributes alone
        image, attributes, others = np.split(looked, [positions, items], axis=1)
        if looked.shape[1] > positions:
            image = image / np.maximum(image.sum(axis=1, keepdims=True), _LEAST_SHARE)
        return (
            image.reshape(-1, side, side) if positions else None,
            attributes if attributes.shape[1] else None,
            dict(zip(names, others.T, strict=True)),
        )


def load(
    folder: Path | str | None = None,
    device: "torch.device | str" = "cpu",
    engine: str | None = None,
    threads: int | None = None,
) -> Captioner:
    """Return the captioner of a checkpoint's folder, a run's (then its best one), or a deployable.

    Without a folder it is the model that comes with the package, for photographs of any kind.
    Needs no network and none of the training code, and a deployable folder no torch. `device` may
    be "auto": CUDA where there is one. `engine` is what runs the model, without it PyTorch for a
    checkpoint and ONNX Runtime for a deployable folder; `threads` is how many compute.

    Raises:
        OptionError: there is no such device here, or no such engine.
        CheckpointError: there is none, or a file of it is damaged; the message names the file.
    """
    found = shipped_model() if folder is None else find_checkpoint(Path(folder))
    loaded = load_engine(engine, found, str(device), threads)
    return Captioner(loaded.engine, loaded.vocabulary, loaded.hash, read_confidence_curve(found))
