"""Time the reward of self-critical training beside pycocoevalcap's CIDEr on the same captions.

python scripts/bench_reward.py --data DATA [--images 1000]

Each of a data set's training images gets five candidates: captions of its own and of others, cut or
with words repeated. Both score all of them with the document frequencies of these images, ours in
batches of 25 images as training does, the first time and again.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from captioner.data.open_dataset import open_dataset
from captioner.program import run_program
from captioner.vocabulary import END, Vocabulary
from training.objectives.caption_reward import CaptionReward

CANDIDATES, BATCH = 5, 25
END_WORD = "<end>"
Images = list[list[Sequence[str]]]


def made_candidates(references: Images, vocabulary: Vocabulary) -> list[list[str]]:
    """Return for each image in turn its candidates, of known words alone."""
    draw = np.random.default_rng(0)
    found = []
    for own in references:
        for number in range(CANDIDATES):
            source = own if number % 2 else references[draw.integers(len(references))]
            words = [word for word in source[draw.integers(len(source))] if word in vocabulary]
            if number > 2:
                words = words[: draw.integers(1, 12)] + words[:3]
            found.append(words[:20])
    return found


def score(
    reward: CaptionReward, words: np.ndarray, lengths: np.ndarray, references: Images
) -> tuple[np.ndarray, float]:
    """Return the score of every candidate, and the seconds that they took."""
    began, found = time.perf_counter(), []
    for start in range(0, len(references), BATCH):
        some = references[start : start + BATCH]
        here = slice(start * CANDIDATES, (start + len(some)) * CANDIDATES)
        image = np.repeat(np.arange(len(some)), CANDIDATES)
        found.append(reward.score(words[here], lengths[here], image, some)[0])
    return np.concatenate(found), time.perf_counter() - began


def score_by_pycocoevalcap(
    references: Images, candidates: list[list[str]]
) -> tuple[np.ndarray, float]:
    """Return the same by pycocoevalcap, a candidate of each image at a time."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    found = np.empty((len(references), CANDIDATES))
    texts = [[" ".join([*words, END_WORD]) for words in own] for own in references]
    began = time.perf_counter()
    for number in range(CANDIDATES):
        scorer = CiderScorer(n=4, sigma=6.0)
        for image, own in enumerate(texts):
            candidate = candidates[image * CANDIDATES + number]
            scorer += (" ".join([*candidate, END_WORD]), own)
        found[:, number] = scorer.compute_score()[1]
    return found.ravel(), time.perf_counter() - began


def run(arguments: argparse.Namespace) -> int:
    dataset = open_dataset(arguments.data, images=None, restval=True, announce=lambda _: None)
    captioned = [image for image in dataset.split("train") if any(image.tokens)]
    references: Images = [
        [words for words in image.tokens if words] for image in captioned[: arguments.images]
    ]
    vocabulary = Vocabulary.build((words for own in references for words in own), min_count=2)
    candidates = made_candidates(references, vocabulary)
    lengths = np.array([len(words) + 1 for words in candidates])
    words = np.full((len(candidates), lengths.max()), END)
    for row, caption in zip(words, candidates, strict=True):
        row[: len(caption)] = vocabulary.encode(caption)

    began = time.perf_counter()
    reward = CaptionReward(references, vocabulary)
    print(
        f"document frequencies of {len(references):,} images: {time.perf_counter() - began:.2f} s"
    )
    theirs, their_seconds = score_by_pycocoevalcap(references, candidates)
    print(f"pycocoevalcap: {len(theirs) / their_seconds:,.0f} captions/s")
    for name in ("the first time", "again, the references being counted"):
        ours, seconds = score(reward, words, lengths, references)
        print(
            f"word ids, {name}: {len(ours) / seconds:,.0f} captions/s, "
            f"{their_seconds / seconds:.1f} times; "
            f"largest difference of a score: {np.abs(ours - theirs).max():.1e}"
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="shapes", help="as for training (default: shapes)")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="(default: 1000)")
    return run_program("bench_reward.py", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
