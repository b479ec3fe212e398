"""How often captions name what is confidently and rightly seen, and what no reference names.

python training/evaluate_coco.py --checkpoint RUN/best --split val --captions-out captions.json
python scripts/judge_concepts.py captions.json --detector RUN/best --data A B --split val

A concept is a word that ImageNet's classes have in the vocabulary. It is confidently seen where the
encoder's classifier gives it a probability of 0.5, and rightly where a reference names it. The
share of such concepts that the caption names says whether the decoder uses what the encoder knows.
A concept that a caption names and no reference of the image does counts as hallucinated; the shares
are those of CHAIR (Rohrbach et al. 2018), with these words for the 80 objects of COCO.

Whom captions call a man or a woman: where at least two references name one kind and none names the
other, the shares of captions that name the same kind, the other one, or neither.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import torch

from captioner.attributes import AttributeDetector, Classifier, ClassifierAndInstances
from captioner.attributes.nouns import attributes_in
from captioner.checkpoint import load_checkpoint
from captioner.data.open_dataset import open_datasets
from captioner.encoder.joint_store import JointStore
from captioner.errors import DataError, OptionError
from captioner.files import read_json
from captioner.flags import options_parser
from captioner.noun_forms import SYNONYMS
from captioner.options import SHARE, Options, option
from captioner.program import run_program
from captioner.vocabulary import tokenize

_BATCH = 100  # images
_SAME = {**SYNONYMS, "mountains": "mountain"}
_PEOPLE = {
    "men": frozenset(("boy", "boys", "guy", "guys", "male", "man", "men")),
    "women": frozenset(("female", "girl", "girls", "ladies", "lady", "woman", "women")),
}


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Options):
    detector: Path = option(MISSING, "checkpoint with the encoder's classifier", metavar="DIR")
    data: tuple[str, ...] = option(MISSING, "data sets that the captions are of", metavar="DATA")
    split: str = option("val", "their split")
    confident: float = option(0.5, "probability from which a concept is seen", within=SHARE)


@dataclass(frozen=True)
class Judgement:
    """Counts over the captions of some images."""

    images: int
    seen: int  # concepts that are confidently and rightly seen
    named: int  # and named by the caption
    mentions: int  # concepts that captions name
    hallucinated: int  # and that no reference of the image names
    images_with_hallucination: int

    def line(self) -> str:
        return (
            f"{self.images:,} images: of {self.seen:,} concepts confidently and rightly seen "
            f"{self.named / max(1, self.seen):.1%} named; of {self.mentions:,} concepts named "
            f"{self.hallucinated / max(1, self.mentions):.1%} in no reference, in "
            f"{self.images_with_hallucination / max(1, self.images):.1%} of the captions"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Judge as the command line says, and return the exit status."""
    return run_program("judge_concepts.py", lambda: _judge(argv))


def _judge(argv: Sequence[str] | None) -> None:
    parser = options_parser(JudgeOptions, prog="judge_concepts.py", description=__doc__)
    parser.add_argument("captions", type=Path, help="what evaluate_coco.py --captions-out wrote")
    given = vars(parser.parse_args(argv))
    path = given.pop("captions")
    options = JudgeOptions.from_json(given)
    entries = {entry["filename"]: entry for entry in read_json(path, "captions", DataError)}
    checkpoint = load_checkpoint(options.detector)
    detector = classifier_of(checkpoint.decoder.attribute_detector)
    words = [checkpoint.vocabulary.words[word] for word in detector.word_ids.tolist()]
    dataset = open_datasets(options.data, announce=print)
    by_set = dataset.split_by_set(options.split)
    store = JointStore.open(None, checkpoint.encoder, by_set, progress=True, announce=print)
    found: dict[str, dict[str, float]] = {}
    images = [image for of_set in by_set for image in of_set]
    for start in range(0, len(images), _BATCH):
        places = [
            place
            for place in range(start, min(start + _BATCH, len(images)))
            if place not in store.missing
        ]
        with torch.no_grad():
            probabilities = detector(store.rows(places).grid)
        for place, row in zip(places, probabilities.tolist(), strict=True):
            found[images[place].filename] = dict(zip(words, row, strict=True))
    report = {}
    for name, of_set in zip(dataset.names, by_set, strict=True):
        judged = judge(
            [entries[image.filename] for image in of_set if image.filename in entries],
            found,
            options.confident,
        )
        print(f"{name}: {judged.line()}")
        report[name] = asdict(judged)
        for kind, called in whom_it_calls_what(
            entries[image.filename] for image in of_set if image.filename in entries
        ).items():
            print(f"{name}: {kind} in the references: {dict(called)}")
    print(json.dumps(report))


def classifier_of(detector: AttributeDetector | None) -> Classifier:
    """Return the encoder's classifier that a detector is or holds.

    Raises:
        OptionError: there is none.
    """
    if isinstance(detector, ClassifierAndInstances):
        return detector.classifier
    if not isinstance(detector, Classifier):
        raise OptionError("--detector holds no classifier; name a checkpoint that has one")
    return detector


def judge(
    entries: Iterable[Mapping[str, object]],
    found: Mapping[str, Mapping[str, float]],
    confident: float,
) -> Judgement:
    """Count the concepts of captions, each with its `references` and its image's `filename`."""
    images = seen = named = mentions = hallucinated = wrong = 0
    for entry in entries:
        images += 1
        probabilities = found[str(entry["filename"])]
        references = entry["references"]
        assert isinstance(references, list)
        said = _concepts(str(entry["caption"]), probabilities)
        right = {one for text in references for one in _concepts(text, probabilities)}
        sure = {
            _SAME.get(word, word) for word, score in probabilities.items() if score >= confident
        }
        seen += len(sure & right)
        named += len(sure & right & said)
        mentions += len(said)
        hallucinated += len(said - right)
        wrong += bool(said - right)
    return Judgement(images, seen, named, mentions, hallucinated, wrong)


def whom_it_calls_what(entries: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Return how often captions name the same kind of people as the references, another or none."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in _PEOPLE}
    for entry in entries:
        named = {
            kind: sum(bool(words & set(tokenize(text))) for text in entry["references"])
            for kind, words in _PEOPLE.items()
        }
        said = {kind for kind, words in _PEOPLE.items() if words & set(tokenize(entry["caption"]))}
        for kind, count in named.items():
            if count >= 2 and sum(named.values()) == count:
                called = "the same" if said == {kind} else "another" if said - {kind} else "neither"
                found[kind][called] += 1
    return found


def _concepts(text: str, known: Mapping[str, float]) -> set[str]:
    """Return the concepts that a text names, by their own words or by synonyms."""
    concepts = {_SAME.get(word, word) for word in known}
    names = concepts | {word for word, concept in _SAME.items() if concept in concepts}
    return {_SAME.get(word, word) for word in attributes_in(tokenize(text), names)}


if __name__ == "__main__":
    sys.exit(main())
