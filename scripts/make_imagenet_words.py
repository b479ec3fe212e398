"""Table of caption words for ImageNet's 1,000 classes, made from WordNet's hypernyms.

python scripts/make_imagenet_words.py --wordnet /usr/share/wordnet --synsets \\
    .venv/lib/python3.11/site-packages/timm/data/_info/imagenet_synsets.txt --captions A.json B.tsv

Each class is a synset of WordNet 3.0. Its words are its own names and those of its hypernyms, the
most specific first, as far as captions use them: a name that captions hardly know gives way to one
that is far more frequent ("terrier" to "dog", but not "zebra" to "animal"). Names that mean nothing
that could be seen are listed below and left out. What hypernyms cannot know (a passenger car is
part of a train), and names whose commoner sense in captions is another one (a crane, a chest), are
put right by imagenet_corrections.tsv, by a class's first name or, where two share it, its synset.

The files of WordNet are in Debian's package wordnet-base. The result is committed, so that nothing
of this is needed to train or to caption.
"""

import re
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from captioner.data.karpathy import load_karpathy
from captioner.errors import DataError
from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, Options, option
from captioner.program import run_program

MUCH_MORE_FREQUENT = 8  # times, for a general name to stand in for a special one
SMOOTHING = 20  # occurrences, added to the special name's own

# Names of hypernyms that say nothing of what is seen.
_EMPTY = """abstraction area arm article attire attribute bar_ barrier being brass color commodity
    communication construction container course covering cover craft creature device dish dwelling
    entity equipment facility fixing form formation game garb good group headdress headgear home
    implement individual instrument instrumentality instrumentation line liquid location machine
    material matter measure mixture object part person piece place plant portion produce region
    screen seat shape shelter site solid somebody someone structure substance support system thing
    top transport unit wear whole wind wood work"""
# Taken only where nothing else is known.
_GENERAL = "animal building clothing food fruit furniture insect shop tool vegetable vehicle"


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    wordnet: Path = option(MISSING, "folder of WordNet's files", metavar="FOLDER")
    synsets: Path = option(MISSING, "file with a class's synset in each line", metavar="FILE")
    captions: tuple[str, ...] = option(
        MISSING, "data sets, in Karpathy's form, or tables of captions, for the words' frequency"
    )
    corrections: Path = option(
        Path(__file__).with_name("imagenet_corrections.tsv"),
        "words in place of WordNet's, none where captions have no word for the class",
        metavar="FILE",
    )
    min_count: int = option(5, "how often captions use a word of the table", within=AT_LEAST_ONE)
    out: Path = option(
        Path(__file__).resolve().parents[1] / "captioner" / "attributes" / "imagenet_words.tsv",
        "file to write",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table as the command line says, and return the exit status."""
    return run_program("make_imagenet_words.py", lambda: _make(argv))


def _make(argv: Sequence[str] | None) -> None:
    parser = options_parser(TableOptions, prog="make_imagenet_words.py", description=__doc__)
    options = TableOptions.from_json(vars(parser.parse_args(argv)))
    names_of, hypernyms_of = read_nouns(options.wordnet / "data.noun")
    counts = {
        word: count
        for word, count in count_words(options.captions).items()
        if count >= options.min_count
    }
    rows = options.corrections.read_text().splitlines()[1:]
    corrections = dict(row.split("\t") for row in rows)
    lines = ["class\tsynset\tname\twords"]
    for number, synset in enumerate(options.synsets.read_text().split()):
        name = names_of[synset[1:]][0].replace("_", " ")
        correction = corrections.get(synset, corrections.get(name))
        if correction is not None:
            chosen = [word for word in correction.split() if word in counts]
        else:
            names = names_upwards(synset[1:], names_of, hypernyms_of)
            chosen = caption_words(names, counts)
        lines.append(f"{number}\t{synset}\t{name}\t{' '.join(chosen)}")
    options.out.write_text("\n".join(lines) + "\n")
    print(f"{sum(not line.endswith(chr(9)) for line in lines[1:])} classes with a word")


def read_nouns(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return names and hypernyms of every noun synset, by its offset in WordNet's data file."""
    names_of, hypernyms_of = {}, {}
    for line in path.read_text().splitlines():
        if line.startswith("  "):  # the licence
            continue
        parts = line.split(" | ")[0].split()
        words = int(parts[3], 16)
        names_of[parts[0]] = [parts[4 + 2 * word].lower() for word in range(words)]
        place = 4 + 2 * words
        pointers = [
            parts[place + 1 + 4 * number : place + 5 + 4 * number]
            for number in range(int(parts[place]))
        ]
        hypernyms_of[parts[0]] = [target for kind, target, _, _ in pointers if kind[0] == "@"]
    return names_of, hypernyms_of


def names_upwards(
    synset: str, names_of: Mapping[str, list[str]], hypernyms_of: Mapping[str, list[str]]
) -> list[str]:
    """Return the names of a synset and of all above it, the nearest first."""
    found: list[str] = []
    waiting, seen = deque([synset]), set()
    while waiting:
        one = waiting.popleft()
        if one not in seen:
            seen.add(one)
            found += names_of[one]
            waiting += hypernyms_of[one]
    # The synset of toy dogs is also called "toy".
    return [name for name in found if not (name == "toy" and "dog" in found)]


def caption_words(names: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Return the names that captions use, the best first; the general ones come last."""
    known = list(dict.fromkeys(n for n in names if n in counts and n not in _EMPTY.split()))
    special = [name for name in known if name not in _GENERAL.split()]
    best = 0
    for place, name in enumerate(special):
        if counts[name] > MUCH_MORE_FREQUENT * (counts[special[best]] + SMOOTHING):
            best = place
    return special[best:] + [name for name in known if name in _GENERAL.split()]


def count_words(paths: Sequence[str]) -> Counter[str]:
    """Return how often each word stands in training captions of data sets and in tables."""
    counts: Counter[str] = Counter()
    for path in map(Path, paths):
        if path.suffix == ".tsv":
            for line in path.read_text().splitlines()[1:]:
                counts.update(re.sub(r"[^\w\s]", "", line.lower().replace("-", " ")).split()[1:])
        elif path.exists():
            for image in load_karpathy(path).split("train"):
                counts.update(word for words in image.tokens for word in words)
        else:
            raise DataError(f"there are no captions {path}; name a .json or a .tsv")
    return counts


if __name__ == "__main__":
    sys.exit(main())
