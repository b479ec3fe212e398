"""Captions name what the encoder's classifier is sure of, if the decoder finds words for it.

A decoder that has seen few photographs of a thing leaves it out, though the classifier is sure of
it: of a cup of coffee it says "a bowl of food". Where the most probable attribute is at least as
probable as `attribute_threshold` and the best caption lacks it, the image is searched once more for
captions that hold the word (constrained beam search, Anderson et al. 2017). These are taken if
their score is not much lower: the classifier may be wrong, or the caption have another word for the
same thing. Measured in docs/results/photographs.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from captioner.control import Control
from captioner.control_search import control_search
from captioner.features import Features
from captioner.search import Hypothesis
from captioner.search_config import SearchConfig

if TYPE_CHECKING:
    from captioner.engines.interface import Decoding

LARGEST_LOSS = 1.0  # of the score, for a word of the classifier


def with_sure_attributes(
    begin: Callable[[Features], "Decoding"],
    features: Features,
    configs: Sequence[SearchConfig],
    controls: Sequence[Control | None],
    found: list[list[Hypothesis]],
) -> list[list[Hypothesis]]:
    """Return the captions found of every image, or those that name its most probable attribute.

    Images whose control is None are left as they are.
    """
    asked: dict[int, Control] = {}
    for image, (control, hypotheses) in enumerate(zip(controls, found, strict=True)):
        if control is not None and hypotheses and hypotheses[0].attributes:
            word, probability = hypotheses[0].attributes[0]
            if control.must_name(word, probability, hypotheses[0].words):
                asked[image] = replace(control, include=(word,))
    if not asked:
        return found
    images = list(asked)
    others = control_search(
        begin(features.select(np.array(images))),
        [configs[image] for image in images],
        list(asked.values()),
    )
    result = list(found)
    for image, hypotheses in zip(images, others, strict=True):
        if hypotheses[0].score >= found[image][0].score - LARGEST_LOSS:
            known = found[image][0].attributes
            result[image] = [replace(one, attributes=known) for one in hypotheses]
    return result
