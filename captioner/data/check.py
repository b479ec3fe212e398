"""Check of a data set before training: images, ids, names, splits and words.

Every image is decoded once. Ids, names and contents are compared within and between the splits. The
words of val and test are looked up among those of the training captions.
"""

import errno
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.data.images import open_image
from captioner.data.karpathy import RESTVAL, CaptionedImage, caption_problems, read_karpathy
from captioner.data.open_dataset import locate
from captioner.errors import ImageError
from captioner.progress import Progress
from captioner.text import escaped

MIN_COUNT = 5
LINES_SHOWN = 10  # of one kind of finding, in the text
IMAGES_AT_ONCE = 256  # handed to the threads together


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a data set holds, and what is wrong with it.

    `findings` has every kind of finding as a key, with none where nothing of it was found;
    `notes` are worth knowing and not wrong.
    """

    name: str
    json_path: str
    images_dir: str
    images: Mapping[str, int]  # by split
    captions: Mapping[str, int]  # by split
    findings: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    training_words: int  # different ones
    frequent_words: int  # those that occur at least MIN_COUNT times
    coverage: Mapping[str, float]  # share of a split's tokens that are frequent words
    smallest: tuple[int, int]  # width and height in pixels, by area
    largest: tuple[int, int]
    total_bytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.findings.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report as a value that JSON can hold."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(map(escaped, self._lines()))

    def _lines(self) -> Iterator[str]:
        yield f"data set {self.name}: {self.json_path}, images in {self.images_dir}"
        for split, count in self.images.items():
            covered = f", {self.coverage[split]:.2%} known words" if split in self.coverage else ""
            yield f"  {split:<8} {count:>9,} images {self.captions[split]:>9,} captions{covered}"
        yield (
            f"  words: {self.training_words:,} in training captions, {self.frequent_words:,} "
            f"of them at least {MIN_COUNT} times: these are the known ones"
        )
        (width, height), (most_width, most_height) = self.smallest, self.largest
        yield (
            f"  sizes: {width}x{height} to {most_width}x{most_height} pixels, "
            f"{self.total_bytes / 1e6:,.1f} MB"
        )
        for kind, items in self.findings.items():
            yield f"{kind}: {len(items) or 'none'}"
            yield from (f"  {item}" for item in items[:LINES_SHOWN])
            if len(items) > LINES_SHOWN:
                yield f"  and {len(items) - LINES_SHOWN:,} more"
        yield from (f"note: {note}" for note in self.notes)
        yield "nothing is wrong" if self.ok else "there are findings"


def check_dataset(
    data: Path | str, images: Path | None = None, *, show_progress: bool = True
) -> CheckReport:
    """Return what is wrong with "coco", "shapes" or the data set at a path.

    Raises:
        DataError: there is no such data set, or its JSON is of another form.
    """
    dataset = read_karpathy(locate(str(data), announce=lambda _: None), images)
    paths = list(dict.fromkeys(image.path for image in dataset.images))
    with Progress(len(paths), "checking", unit="images", enabled=show_progress) as progress:
        looks = {}
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding releases the lock
            for start in range(0, len(paths), IMAGES_AT_ONCE):
                some = paths[start : start + IMAGES_AT_ONCE]
                for path, look in zip(some, threads.map(_look, some), strict=True):
                    looks[path] = look
                    progress.advance()
    splits = {
        name: [image for image in dataset.images if image.split == name]
        for name in dataset.counts()
    }
    words, vocabulary = _training_words([*splits["train"], *splits.get(RESTVAL, [])])
    sizes = sorted((look.size for look in looks.values() if look.size), key=lambda s: s[0] * s[1])
    same_content, leaks = _compare_contents(dataset.images, looks)
    return CheckReport(
        name=dataset.name,
        json_path=str(dataset.json_path),
        images_dir=str(dataset.images_dir),
        images=dataset.counts(),
        captions={name: sum(len(i.captions) for i in group) for name, group in splits.items()},
        findings={
            "missing images": _named(dataset.images, looks, is_missing=True),
            "unreadable images": _named(dataset.images, looks, is_missing=False),
            "empty captions": tuple(_empty_captions(dataset.images)),
            "unusable captions": tuple(
                f"{image.filename}: {problem}"
                for image in dataset.images
                for problem in caption_problems(image)
            ),
            "duplicate ids": tuple(_duplicates(dataset.images)),
            "split leaks": tuple(leaks),
        },
        notes=(
            *(f"there are no images in {name}" for name, group in splits.items() if not group),
            *same_content,
        ),
        training_words=words,
        frequent_words=len(vocabulary),
        coverage={
            name: sum(word in vocabulary for word in tokens) / len(tokens)
            for name in ("val", "test")
            if (tokens := [word for i in splits[name] for caption in i.tokens for word in caption])
        },
        smallest=sizes[0] if sizes else (0, 0),
        largest=sizes[-1] if sizes else (0, 0),
        total_bytes=sum(look.bytes for look in looks.values()),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What one image file turned out to be; `size` is None where it cannot be read."""

    size: tuple[int, int] | None = None
    digest: bytes = b""
    bytes: int = 0
    problem: str = ""
    is_missing: bool = False


def _look(path: Path) -> _Look:
    try:
        content = path.read_bytes()
    except ValueError:  # a name that no file can have
        return _Look(problem="there is no such file", is_missing=True)
    except OSError as problem:
        is_missing = problem.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
        return _Look(problem=problem.strerror or "it cannot be read", is_missing=is_missing)
    digest = hashlib.sha256(content).digest()
    try:
        size = open_image(content).size
    except ImageError as problem:
        return _Look(digest=digest, bytes=len(content), problem=str(problem))
    return _Look(size, digest, len(content))


def _named(
    images: Iterable[CaptionedImage], looks: Mapping[Path, _Look], *, is_missing: bool
) -> tuple[str, ...]:
    return tuple(
        str(image.path) if is_missing else f"{image.path}: {look.problem}"
        for image in images
        if (look := looks[image.path]).size is None and look.is_missing == is_missing
    )


def _empty_captions(images: Iterable[CaptionedImage]) -> Iterator[str]:
    for image in images:
        if not image.tokens:
            yield f"{image.filename}: it has no caption at all"
        for number, words in enumerate(image.tokens, 1):
            if not words:
                text = image.captions[number - 1]
                yield f"{image.filename}: caption {number} is {text!r}, without words"


def _duplicates(images: Iterable[CaptionedImage]) -> Iterator[str]:
    met: dict[str, defaultdict[Hashable, list[str]]] = {
        what: defaultdict(list) for what in ("image id", "sentence id", "file")
    }
    for image in images:
        met["image id"][image.image_id].append(image.filename)
        met["file"][image.path].append(f"{image.filename} (id {image.image_id}, {image.split})")
        for number in image.sentence_ids:
            met["sentence id"][number].append(image.filename)
    for what, names_of in met.items():
        for key, names in names_of.items():
            if len(names) > 1:
                yield f"{what} {key} is there {len(names)} times: {', '.join(names)}"


def _compare_contents(
    images: Iterable[CaptionedImage], looks: Mapping[Path, _Look]
) -> tuple[list[str], list[str]]:
    """Return notes of same pictures within a split, and leaks: those in two splits."""
    alike: defaultdict[Hashable, list[CaptionedImage]] = defaultdict(list)
    for image in images:
        alike[looks[image.path].digest or image.path].append(image)
    same, leaks = [], []
    for group in alike.values():
        if len(group) == 1:
            continue
        splits = {"train" if image.split == RESTVAL else image.split for image in group}
        met = ", ".join(f"{image.filename} ({image.split})" for image in group)
        if len(splits) > 1:
            leaks.append(f"one picture in {len(splits)} splits: {met}")
        elif len({image.path for image in group}) > 1:
            same.append(f"the same picture {len(group)} times: {met}")
    return same, leaks


def _training_words(images: Iterable[CaptionedImage]) -> tuple[int, frozenset[str]]:
    """Return how many words the captions have, and those that a vocabulary would keep."""
    counts = Counter(word for image in images for tokens in image.tokens for word in tokens)
    return len(counts), frozenset(word for word, count in counts.items() if count >= MIN_COUNT)
