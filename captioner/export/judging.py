"""Judging of int8: how much of the validation's CIDEr a captioner keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from captioner.data.karpathy import CaptionedImage
from captioner.export.config import MOST_LOSS
from captioner.metrics.ngram_metrics import Cider
from captioner.search import Hypothesis
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What int8 costs; both figures are CIDEr of the same photographs."""

    before: float
    after: float

    @property
    def loss(self) -> float:
        """Return the part of the CIDEr that is lost."""
        return 1.0 - self.after / self.before if self.before > 0.0 else 0.0

    @property
    def says_anything(self) -> bool:
        """Return whether there is CIDEr that could be lost."""
        return self.before > 0.0

    @property
    def is_accepted(self) -> bool:
        return self.loss < MOST_LOSS

    def __str__(self) -> str:
        return f"CIDEr {self.before:.4f} -> {self.after:.4f} ({-self.loss:+.2%})"


class Judge:
    """Scores captions of validation photographs by CIDEr, over the data set's own tokens."""

    def __init__(self, images: Sequence[CaptionedImage], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._cider = Cider([[" ".join(one) for one in image.tokens] for image in images])

    def cider(self, captions: Sequence[Sequence[Hypothesis]]) -> float:
        texts = [" ".join(self._vocabulary.decode(best[0].words)) for best in captions]
        return self._cider.score(texts)[0]
