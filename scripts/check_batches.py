"""Check that a photograph gets the same caption alone and in any batch, but for near ties.

Every photograph is captioned alone, then in batches of random sizes and order, beside photographs
whose searches are configured otherwise. Where a caption differs, the two searches are followed to
the first step at which they keep other words, and the gap is printed: how far apart, by the
numbers of the search alone, what one kept and the other did not. A gap of rounding is a near tie.
The exit status is 1 where more captions differ than `--allowed`, or where one is no near tie.

    python scripts/check_batches.py --model runs/NAME/deployable --data flickr8k
"""

import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.captioner import Captioner, load
from captioner.data.open_dataset import open_dataset
from captioner.engines.interface import Candidates, Decoding
from captioner.errors import DataError
from captioner.features import Features
from captioner.files import write_json
from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, option
from captioner.program import run_program
from captioner.progress import Progress
from captioner.search import Hypothesis, search
from captioner.search_config import SearchConfig

DIFFERENT = 1  # exit status
MOST_SHOWN = 20  # differences


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    model: Path = option(MISSING, "checkpoint or deployable folder", metavar="DIR")
    data: str = option(MISSING, "coco, shapes or a path: the validation photographs are taken")
    images: Path | None = option(None, "folder of the images of --data", metavar="DIR")
    engine: str | None = option(None, "default: the folder's own", metavar="NAME")
    threads: int | None = option(None, "of the processor", within=AT_LEAST_ONE)
    photographs: int = option(1000, "most photographs", within=AT_LEAST_ONE)
    orders: int = option(2, "random orders that all go through", within=AT_LEAST_ONE)
    largest_batch: int = option(16, "photographs", within=AT_LEAST_ONE)
    seed: int = option(0, "of orders, sizes and configurations")
    near: float = option(
        1e-3, "greatest gap, of log-probabilities, of a near tie", within=NOT_NEGATIVE
    )
    allowed: float = option(0.001, "share of captions that may differ", within=NOT_NEGATIVE)
    json: Path | None = option(None, "write the findings here as well", metavar="FILE")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(CheckOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "check_batches.py", lambda: check(CheckOptions.from_json(vars(parser.parse_args(argv))))
    )


def check(options: CheckOptions) -> int:
    captioner = load(options.model, engine=options.engine, threads=options.threads)
    dataset = open_dataset(options.data, images=options.images, announce=print)
    paths = [image.path for image in dataset.split("val")][: options.photographs]
    if not paths:
        raise DataError(f"--data {options.data} has no validation photographs; give another")
    generator = np.random.default_rng(options.seed)
    configs = random_configs(len(paths), generator)
    features, alone = caption_alone(captioner, paths, configs)

    differences: list[dict[str, Any]] = []
    rounding = 0.0
    with Progress(options.orders * len(paths), "in batches", unit="photographs") as progress:
        for batch in batches(len(paths), options, generator):
            pixels = [captioner.preprocessing.read(paths[number]) for number in batch]
            beside = captioner.engine.encode(pixels)
            found = captioner.engine.search(beside, [configs[number] for number in batch])
            for place, number in enumerate(batch):
                one, other = alone[number], found[place][0]
                if one.words == other.words:
                    rounding = max(rounding, abs(one.log_prob - other.log_prob))
                    continue
                both = [
                    Followed(captioner.engine.begin(features[number])),
                    Followed(captioner.engine.begin(beside), place),
                ]
                for followed, asked in zip(
                    both, ([configs[number]], [configs[n] for n in batch]), strict=True
                ):
                    search(followed, asked)
                gap = gap_between(*both)
                differences.append(
                    {
                        "photograph": str(paths[number]),
                        "gap": abs(one.score - other.score) if gap is None else gap,
                        "alone": text(captioner, one),
                        "in_batch": text(captioner, other),
                        "batch": len(batch),
                    }
                )
            progress.advance(len(batch), different=len(differences))

    return report(captioner, options, len(paths), differences, rounding)


def random_configs(count: int, generator: np.random.Generator) -> list[SearchConfig]:
    """Return the usual configuration for half of the photographs, any for the others."""
    usual = SearchConfig()
    return [
        usual
        if generator.random() < 0.5
        else SearchConfig(
            beam_size=int(generator.integers(1, 6)), max_length=int(generator.integers(8, 21))
        )
        for _ in range(count)
    ]


def batches(count: int, options: CheckOptions, generator: np.random.Generator) -> list[list[int]]:
    """Return the photographs' numbers, in batches of random sizes, in every order."""
    made = []
    for _ in range(options.orders):
        order = generator.permutation(count).tolist()
        while order:
            size = int(generator.integers(1, options.largest_batch + 1))
            made.append(order[:size])
            order = order[size:]
    return made


def caption_alone(
    captioner: Captioner, paths: Sequence[Path], configs: Sequence[SearchConfig]
) -> tuple[list[Features], list[Hypothesis]]:
    """Return the features of each photograph and its best caption, found alone."""
    features, best = [], []
    with Progress(len(paths), "alone", unit="photographs") as progress:
        for path, config in zip(paths, configs, strict=True):
            features.append(captioner.engine.encode([captioner.preprocessing.read(path)]))
            best.append(captioner.engine.search(features[-1], config)[0][0])
            progress.advance()
    return features, best


class Followed:
    """A decoding that remembers, of one image, what every step kept and what it chose from."""

    def __init__(self, decoding: Decoding, image: int = 0) -> None:
        self._decoding = decoding
        self.attributes = decoding.attributes
        self._place: int | None = image
        self._candidates: Candidates | None = None
        self._live = np.zeros(1)
        self.kept: list[list[tuple[int, int]]] = []  # of each step: beam and word, the best first
        self.totals: list[dict[tuple[int, int], float]] = []  # of each step's candidates

    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        if self._place is not None and self._candidates is not None:
            self._remember(words[self._place], parents[self._place])
        found = self._decoding.step(words, parents, count, wanted)
        if self._place is not None:
            place = slice(self._place, self._place + 1)
            self._candidates = Candidates(
                *(None if part is None else part[place].copy() for part in found)  # type: ignore[arg-type]
            )
        return found

    def keep(self, images: np.ndarray) -> None:
        if self._place is not None:
            places = np.flatnonzero(images == self._place)
            self._place = int(places[0]) if len(places) else None
        self._decoding.keep(images)

    def _remember(self, words: np.ndarray, parents: np.ndarray) -> None:
        assert self._candidates is not None
        log_probs, choices = self._candidates.log_probs[0], self._candidates.words[0]
        totals = {
            (beam, int(word)): float(self._live[beam] + log_prob)
            for beam in range(len(choices))
            for word, log_prob in zip(choices[beam], log_probs[beam], strict=True)
        }
        kept = [(int(parent), int(word)) for parent, word in zip(parents, words, strict=True)]
        self.kept.append(kept)
        self.totals.append(totals)
        self._live = np.array([totals.get(one, -np.inf) for one in kept])


def gap_between(alone: Followed, beside: Followed) -> float | None:
    """Return how far apart the candidates are that only one of two searches kept, or their order.

    None where both kept the same at every step that both took.
    """
    for kept_alone, kept_beside, totals in zip(alone.kept, beside.kept, alone.totals, strict=False):
        least = min(totals.values())  # of a candidate that is not in the table it is the bound
        for one, other in zip(kept_alone, kept_beside, strict=False):
            first, second = totals.get(one, least), totals.get(other, least)
            if one != other and np.isfinite(first):
                return abs(first - second)
    return None


def text(captioner: Captioner, hypothesis: Hypothesis) -> str:
    return " ".join(captioner.vocabulary.decode(hypothesis.words))


def report(
    captioner: Captioner,
    options: CheckOptions,
    count: int,
    differences: Sequence[dict[str, Any]],
    rounding: float,
) -> int:
    """Print and write the findings; return the exit status."""
    captioned = options.orders * count
    for one in differences[:MOST_SHOWN]:
        print(
            f"{one['photograph']}, in a batch of {one['batch']}: gap {one['gap']:.2g}\n"
            f"  alone:    {one['alone']}\n  in batch: {one['in_batch']}"
        )
    share = len(differences) / captioned
    far = [one for one in differences if one["gap"] > options.near]
    print(
        f"{captioner.engine.describe()}: of {captioned:,} captions in batches, "
        f"{len(differences)} differ from those found alone ({share:.2%}), {len(far)} of them by "
        f"more than a near tie; equal ones differ by {rounding:.1e} in log-probability at most"
    )
    if options.json is not None:
        findings = {
            "engine": {key: str(value) for key, value in captioner.engine.describe().items()},
            "photographs": count,
            "captions": captioned,
            "different": len(differences),
            "no_near_tie": len(far),
            "greatest_rounding": rounding,
            "differences": list(differences),
        }
        write_json(options.json, findings)
    return DIFFERENT if far or share > options.allowed else 0


if __name__ == "__main__":
    sys.exit(main())
