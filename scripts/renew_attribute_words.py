"""Give a checkpoint's classifier the present words of ImageNet's classes.

python scripts/renew_attribute_words.py runs/NAME/best --out renewed

A checkpoint keeps the table of words that it was trained with (captioner/attributes). Where a class
has a better word in the present table, and the decoder has learned that word as an attribute, the
class counts for it from now on; the decoder itself stays as it is. A class whose words it has all
not learned counts for none.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import torch

from captioner.attributes import Classifier, ClassifierAndInstances
from captioner.attributes.imagenet import words_of_classes
from captioner.checkpoint import load_checkpoint, save_checkpoint
from captioner.errors import OptionError
from captioner.flags import options_parser
from captioner.options import Options, option
from captioner.program import run_program
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class RenewOptions(Options):
    out: Path = option(MISSING, "folder of the new checkpoint", metavar="DIR")

    def contradictions(self) -> Iterable[str]:
        if self.out.exists():
            yield f"--out is {self.out}, which exists; give another folder"


def main(argv: Sequence[str] | None = None) -> int:
    """Renew as the command line says, and return the exit status."""
    return run_program("renew_attribute_words.py", lambda: _renew(argv))


def _renew(argv: Sequence[str] | None) -> None:
    parser = options_parser(RenewOptions, prog="renew_attribute_words.py", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    given = vars(parser.parse_args(argv))
    folder = given.pop("checkpoint")
    options = RenewOptions.from_json(given)
    checkpoint = load_checkpoint(folder)
    detector = checkpoint.decoder.attribute_detector
    if isinstance(detector, ClassifierAndInstances):
        detector = detector.classifier
    if not isinstance(detector, Classifier):
        raise OptionError(f"{folder} has no classifier of attributes; name a checkpoint with one")
    changed = renew(detector, checkpoint.vocabulary)
    save_checkpoint(
        options.out,
        encoder=checkpoint.encoder,
        decoder=checkpoint.decoder,
        vocabulary=checkpoint.vocabulary,
        summary={**checkpoint.summary, "attribute_words_renewed": changed},
    )
    print(f"{options.out}: {changed} classes have another word")


def renew(detector: Classifier, vocabulary: Vocabulary) -> int:
    """Let every class count for its best present word, and return how many changed."""
    places = {vocabulary.words[word]: at for at, word in enumerate(detector.word_ids.tolist())}
    former = detector.words_of_classes.clone()
    detector.words_of_classes.zero_()
    for number, word in enumerate(words_of_classes(places)):
        if word is not None:
            detector.words_of_classes[number, places[word]] = 1.0
    return int(torch.any(detector.words_of_classes != former, dim=1).sum())


if __name__ == "__main__":
    sys.exit(main())
