"""Detectors of attributes: from the grid of features to probabilities of words.

A detector is part of the decoder that reads it, so a checkpoint and an exported model hold it. Its
weights are buffers: they come from the encoder's classifier or were fitted before the decoder is
trained, and training leaves them as they are. A new detector is empty; it takes its sizes from what
it is given or from the state that is loaded.

Source: attributes as the words a captioner attends to, You et al. 2016; noisy-or over image
regions, Fang et al. 2015, section 3.1.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.features import Features


class AttributeDetector(nn.Module, ABC):
    """A map from the grid [B, P, D] to the probabilities [B, A] of A words."""

    name: ClassVar[str]  # as in `--attribute-detector`
    word_ids: Tensor  # [A], the words' places in the caption vocabulary

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("word_ids", torch.zeros(0, dtype=torch.int64))

    @abstractmethod
    def forward(self, grid: Tensor) -> Tensor: ...

    @property
    def num_attributes(self) -> int:
        return len(self.word_ids)

    def best(self, probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the places [B, count] of the most probable words, and their probabilities.

        A place is one in `word_ids`.

        Raises:
            OptionError: the detector knows fewer words.
        """
        if count > self.num_attributes:
            raise OptionError(
                f"--attributes is {count} and the detector knows {self.num_attributes} words; "
                "give a smaller number"
            )
        scores, places = probabilities.topk(count, dim=1)
        return places, scores

    def of(self, features: Features) -> Tensor:
        """Return the probabilities [B, A] that come with the features, or else are detected."""
        return self(features.grid) if features.attributes is None else features.attributes

    def most_probable(self, features: Features, count: int | None) -> Tensor:
        """Return the probabilities [B, A], zero but for the `count` highest; None keeps all.

        Raises:
            OptionError: the detector knows fewer words.
        """
        probabilities = self.of(features)
        if count is None:
            return probabilities
        places, scores = self.best(probabilities, count)
        return torch.zeros_like(probabilities).scatter(1, places, scores)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        for name, value in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if saved is not None and value is not None and value.shape != saved.shape:
                self._buffers[name] = value.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)


class Classifier(AttributeDetector):
    """The encoder's own classifier, its classes summed where they share a caption word."""

    name = "classifier"
    weight: Tensor  # [C, D]
    bias: Tensor  # [C]
    words_of_classes: Tensor  # [C, A], 1 where the class counts for the word

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(0, 0))
        self.register_buffer("bias", torch.zeros(0))
        self.register_buffer("words_of_classes", torch.zeros(0, 0))

    def forward(self, grid: Tensor) -> Tensor:
        logits = grid.mean(1) @ self.weight.t() + self.bias
        return logits.softmax(1) @ self.words_of_classes

    def take(self, weight: Tensor, bias: Tensor, word_ids: Sequence[int | None]) -> None:
        """Become the classifier with this weight [C, D] and bias [C].

        `word_ids` has the word of each class, None where captions have no word for it.
        """
        known = sorted({word for word in word_ids if word is not None})
        place = {word: number for number, word in enumerate(known)}
        self.word_ids = torch.tensor(known, dtype=torch.int64, device=self.word_ids.device)
        self.weight = weight.detach().to(self.weight, copy=True)
        self.bias = bias.detach().to(self.bias, copy=True)
        self.words_of_classes = self.bias.new_zeros(len(weight), len(known))
        for number, word in enumerate(word_ids):
            if word is not None:
                self.words_of_classes[number, place[word]] = 1.0


class InstanceDetector(AttributeDetector):
    """Multiple instance learning: a word is there if any position of the grid shows it."""

    name = "mil"
    weight: Tensor  # [A, D]
    bias: Tensor  # [A]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(0, 0))
        self.register_buffer("bias", torch.zeros(0))

    def forward(self, grid: Tensor) -> Tensor:
        return noisy_or(grid @ self.weight.t() + self.bias)

    def take(self, weight: Tensor, bias: Tensor, word_ids: Sequence[int]) -> None:
        """Become the detector with this weight [A, D] and bias [A] of these words."""
        self.word_ids = torch.tensor(word_ids, dtype=torch.int64, device=self.word_ids.device)
        self.weight = weight.detach().to(self.weight, copy=True)
        self.bias = bias.detach().to(self.bias, copy=True)


class ClassifierAndInstances(AttributeDetector):
    """Both, a word that both know having the higher of its two probabilities."""

    name = "both"
    sources: Tensor  # [A, 2], the word's places among both outputs, one after the other

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier()
        self.instances = InstanceDetector()
        self.register_buffer("sources", torch.zeros(0, 2, dtype=torch.int64))

    def forward(self, grid: Tensor) -> Tensor:
        found = torch.cat([self.classifier(grid), self.instances(grid)], dim=1)
        return torch.maximum(found[:, self.sources[:, 0]], found[:, self.sources[:, 1]])

    def join(self) -> None:
        """Take the words of both parts, once these have theirs."""
        places: dict[int, list[int]] = {}
        ids = [*self.classifier.word_ids.tolist(), *self.instances.word_ids.tolist()]
        for place, word in enumerate(ids):
            places.setdefault(word, []).append(place)
        known = sorted(places)
        self.word_ids = self.word_ids.new_tensor(known)
        self.sources = self.word_ids.new_tensor([[places[w][0], places[w][-1]] for w in known])


def noisy_or(logits: Tensor) -> Tensor:
    """Return the probability that any position shows it: [B, P, A] -> [B, A]."""
    return -torch.expm1(-nn.functional.softplus(logits).sum(1))


DETECTORS: dict[str, type[AttributeDetector]] = {
    kind.name: kind for kind in (Classifier, InstanceDetector, ClassifierAndInstances)
}
