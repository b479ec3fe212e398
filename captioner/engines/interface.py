"""The interface of engines, which run a captioner's model with one library.

An engine turns pixels into features, and the words so far into candidates for the next one. It
decides on devices and on the library that computes; `captioner.search` decides on words, and
`captioner.captioner` knows photographs and how words are written.

Shape letters: B images, K captions or beams per image, C candidates, Q words asked for,
P positions of the grid, N attributes, S shares; h and w are an image's sides.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from captioner import graphs
from captioner.encoder.preprocessing import Preprocessing
from captioner.features import Features
from captioner.search_config import SearchConfig
from captioner.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner.control import Control
    from captioner.encoder.interface import Encoder
    from captioner.search import Hypothesis


CLASSIFIER = "classifier"  # one of things, whose probabilities add up to 1 at most


class Candidates(NamedTuple):
    """What may follow each caption: its most probable next words, the best first.

    Of equally probable words the one with the lower id comes first. PAD, START and UNKNOWN have
    the log-probability -inf wherever they stand.
    """

    log_probs: np.ndarray  # float32 [B, K, C], natural logarithm, of the word alone
    words: np.ndarray  # int64 [B, K, C]
    wanted: np.ndarray  # float32 [B, K, Q], log-probabilities of the words that were asked for
    attention: np.ndarray | None
    """float32 [B, K, P + N + S], where the next word looks: the positions of the grid, then the
    attributes, if there are some, then what the engine's `share_names` name. Each row sums to 1."""


class Attributes(NamedTuple):
    """Words for what was found in each image before it is captioned, the most probable first."""

    words: np.ndarray  # int64 [B, N]
    probabilities: np.ndarray  # float32 [B, N]


def attributes_in(prepared: Mapping[str, np.ndarray]) -> Attributes | None:
    """Return the attributes among what a graph has prepared, None where it finds none."""
    names = [graphs.ATTRIBUTES + name for name in Attributes._fields]
    return Attributes(*map(prepared.__getitem__, names)) if set(names) <= prepared.keys() else None


class Decoding(Protocol):
    """A batch of images on its way to captions; holds what each image and caption needs."""

    @property
    def attributes(self) -> Attributes | None:
        """What the captions attend to beside the grid; None where there is nothing."""

    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        """Read one more word of every caption, and return what may follow.

        The caption k of an image goes on from what was caption `parents[:, k]` before. At the first
        step K is 1, the words are START and the parents 0. The arrays returned are the caller's to
        keep.

        Shapes:
            words, parents: int64 [B, K]
            count: candidates to return for each caption, fewer where the vocabulary is smaller
            wanted: int64 [B, Q], words whose log-probabilities are returned as well; Q may be 0
        """

    def keep(self, images: np.ndarray) -> None:
        """Let the other images leave the batch; int64 [n], in rising order."""


class Engine(ABC):
    """Runs one model."""

    name: ClassVar[str]  # as in `ENGINES`
    preprocessing: Preprocessing
    grid: int  # positions along each side of the grid that captions look at
    share_names: tuple[str, ...] = ()  # what captions attend to beside the image and attributes
    attribute_detector: str = ""  # what finds its attributes, as in `--attribute-detector`
    encoder: "Encoder | None" = None  # the one that runs, if PyTorch can run it without the engine

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, device: str, threads: int | None) -> "LoadedEngine":
        """Return an engine for the model in `folder`, as `captioner.load` says.

        Raises:
            OptionError: there is no such device, or the folder is of a kind for another engine.
            CheckpointError: there is no sound model; the message names the file.
        """

    @abstractmethod
    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        """Return the features of images, each uint8 [h, w, 3] as `preprocessing` reads it.

        The work is done when this returns.
        """

    @abstractmethod
    def begin(self, features: Features) -> Decoding:
        """Return a decoding of at least one image that has read no word yet."""

    def search(
        self,
        features: Features,
        config: SearchConfig | Sequence[SearchConfig],
        controls: "Sequence[Control | None] | None" = None,
    ) -> "list[list[Hypothesis]]":
        """Return the best captions of every image, the best first, with a configuration for each.

        `controls` are the demands of each image's configuration in the model's word ids.

        Raises:
            CaptionerError: the model gives no word a probability, or none that meets the demands.
        """
        from captioner.strategies import captions_of

        count = len(features)
        configs = [config] * count if isinstance(config, SearchConfig) else config
        return captions_of(
            self.begin,
            features,
            configs,
            controls or [None] * count,
            names_attributes=self.attribute_detector == CLASSIFIER,
        )

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return facts for people.

        `engine`, `device`, `threads` (0: unknown), and by part `precision` and `bytes` of weights;
        of a deployable folder `step`, what computes a step of its decoder.
        """


class LoadedEngine(NamedTuple):
    """An engine with what else the folder of its model holds."""

    engine: Engine
    vocabulary: Vocabulary
    hash: str  # SHA-256: the name of exactly these contents
    summary: dict[str, Any]  # of the training that made it
