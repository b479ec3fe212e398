"""Karpathy's JSON files: photographs, their captions and their splits.

`dataset_coco.json`, `dataset_flickr8k.json` and `dataset_flickr30k.json` (Karpathy and Fei-Fei
2015) share one form, which the converter and the built-in shapes write too. Other keys of an
image's entry are kept, and a file of another form gives an error that names the entry. Training,
`captioner data check` and `captioner score` use the same rules for ids and for captions that can be
used.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from captioner.errors import DataError
from captioner.files import read_json
from captioner.text import holds_half_character
from captioner.vocabulary import END, PAD, SPECIAL_TOKENS, START, tokenize, word_problem

SPLITS = ("train", "val", "test")
RESTVAL = "restval"  # COCO's validation images that are in neither val nor test
IMAGE_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # spelled so in the archive of Flickr8k
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
)
ID_KEYS = ("cocoid", "imgid")  # the first that all images have is their id
RESERVED = frozenset(SPECIAL_TOKENS[number] for number in (PAD, START, END))
_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,17}")
_OWN_KEYS = frozenset(
    {
        *("filename", "filepath", "split", "sentences", "sentids", "imgid", "cocoid"),
        *("dataset", "own_id"),  # of a merged file
    }
)


class Captioned(Protocol):
    @property
    def captions(self) -> Sequence[str]: ...

    @property
    def tokens(self) -> Sequence[Sequence[str]]: ...


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One photograph with its captions; `tokens` holds the words of each caption."""

    image_id: int
    path: Path
    filename: str
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    sentence_ids: tuple[int, ...] = ()  # empty where the file numbers no sentences
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    cocoid: int | None = None  # COCO's number of the photograph, where the file has it
    dataset: str = ""  # where several sets are one: the name of its own,
    own_id: Any = None  # and its id there


@dataclass(frozen=True)
class CaptionDataset:
    """All photographs of a data set, in the order of its file."""

    name: str
    json_path: Path
    images_dir: Path
    images: tuple[CaptionedImage, ...]
    left_out: int = 0  # empty captions that were dropped

    def split(self, name: str) -> list[CaptionedImage]:
        """Return the images of `train`, `val` or `test`, which may be none."""
        check_split(name)
        return [image for image in self.images if image.split == name]

    def counts(self) -> dict[str, int]:
        """Return the number of images in each split."""
        counts = Counter(image.split for image in self.images)
        return {name: counts[name] for name in dict.fromkeys((*SPLITS, *sorted(counts)))}


def check_split(name: str) -> None:
    """Raise DataError where there is no split of this name."""
    if name not in SPLITS:
        raise DataError(f"there is no split {name!r}; it is one of {', '.join(SPLITS)}")


def load_karpathy(
    json_path: Path, images_dir: Path | None = None, *, restval: bool = True
) -> CaptionDataset:
    """Return a data set that is fit for training: captions with words, ids without doubles.

    `restval` joins the training split, or is dropped where `restval` is False. Empty captions are
    left out and counted, and so is a photograph that has none but empty ones.

    Raises:
        DataError: the file is missing or of another form, a caption cannot be used, or no image
            is left.
    """
    dataset = read_karpathy(json_path, images_dir)
    kept: list[CaptionedImage] = []
    left_out = 0
    for image in dataset.images:
        for problem in caption_problems(image):
            raise DataError(
                f"{json_path}: {image.filename}: {problem}; correct the file: "
                "`captioner data check` lists all such captions"
            )
        full = [number for number, words in enumerate(image.tokens) if words]
        left_out += len(image.tokens) - len(full)
        if not full or (image.split == RESTVAL and not restval):
            continue
        if len(full) < len(image.tokens):
            image = _with_captions(image, full)
        kept.append(replace(image, split="train") if image.split == RESTVAL else image)
    if not kept:
        raise DataError(f"{json_path} holds no image with a caption; check what made the file")
    by_id: dict[int, CaptionedImage] = {}
    for image in kept:
        other = by_id.setdefault(image.image_id, image)
        if other is not image:
            raise DataError(
                f"{json_path}: {other.filename} and {image.filename} have the same id "
                f"{image.image_id}; `captioner data check` lists all doubles"
            )
    return replace(dataset, images=tuple(kept), left_out=left_out)


def read_karpathy(json_path: Path, images_dir: Path | None = None) -> CaptionDataset:
    """Return everything the file holds, empty captions and doubles included, `restval` apart.

    Images lie in `images_dir`, else in the folder that the file names with a key of that name
    (the converter writes it), else in one of the usual names beside the file, else beside the
    file itself; in COCO's subfolders (key `filepath`) where those exist.

    Raises:
        DataError: the file is missing or of another form, or `images_dir` is no folder.
    """
    json_path = Path(json_path)
    content = read_json(json_path, "data set", DataError)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(
            f'{json_path} is not in Karpathy\'s form, an object with a list "images"; '
            "`captioner data convert` makes one from CSV or JSONL"
        )
    if not entries:
        raise DataError(f"{json_path} holds no image; check what made the file")
    for position, entry in enumerate(entries):
        _check_entry(entry, f"{json_path}: image {position}")
    folder = _find_folder(json_path, images_dir, content.get("images_dir"), entries)
    folders = {place: _subfolder(folder, place) for place in {e.get("filepath") for e in entries}}
    images = tuple(
        _image(entry, image_id, folders[entry.get("filepath")])
        for entry, image_id in zip(entries, image_ids(entries), strict=True)
    )
    name = content.get("dataset")
    if not isinstance(name, str) or not name:
        name = json_path.stem.removeprefix("dataset_")
    return CaptionDataset(name.lower(), json_path, folder, images)


def image_ids(entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the id of each image of a file.

    It is `cocoid` where all images have one, else `imgid` where all have one, else the place in
    the file, from 0: never a mixture, in which two images could meet.
    """
    for key in ID_KEYS:
        if all(key in entry for entry in entries):
            return [as_id(entry[key]) for entry in entries]
    return list(range(len(entries)))


def as_id(value: Any) -> Any:
    """Return an id as a whole number where it spells one, else as it is: "1" is 1, "01" is not."""
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def captions_of(entry: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each caption of an image's entry, and its words."""
    return [
        (sentence.get("raw") or " ".join(words), words)
        for sentence in entry["sentences"]
        for words in [_words(sentence)]
    ]


def caption_problems(image: Captioned) -> Iterator[str]:
    """Yield what makes captions of an image unfit for training; empty ones are none of it."""
    for number, (text, words) in enumerate(zip(image.captions, image.tokens, strict=True), 1):
        for word in words:
            problem = "is reserved" if word in RESERVED else word_problem(word)
            if problem:
                yield f"caption {number} has the token {word!r}, which {problem}"
                break
        else:
            if holds_half_character(text):
                yield f"caption {number} holds half of a character, {text!r}"


def to_entry(
    number: int, filename: str, split: str, captions: Sequence[str], first_sentence: int
) -> dict[str, Any]:
    """Return an image's entry in the form that Karpathy's files have.

    `number` is the image's id, `first_sentence` that of its first caption.
    """
    sentences = [
        {"raw": raw, "tokens": tokenize(raw), "imgid": number, "sentid": first_sentence + place}
        for place, raw in enumerate(captions)
    ]
    return {
        "filename": filename,
        "imgid": number,
        "split": split,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "sentences": sentences,
    }


def _check_entry(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {type(entry).__name__}, an object is needed")
    filename = entry.get("filename")
    if not isinstance(filename, str) or not filename:
        raise DataError(f'{where} has no "filename"; every image needs one')
    where = f"{where} ({filename})"
    split = entry.get("split")
    if split not in (*SPLITS, RESTVAL):
        raise DataError(f"{where} has split {split!r}; it is one of {', '.join(SPLITS)}, {RESTVAL}")
    if not isinstance(entry.get("filepath", ""), str):
        raise DataError(f'{where} has "filepath" {entry["filepath"]!r}; it is the name of a folder')
    for key in ID_KEYS:
        if key in entry and type(as_id(entry[key])) is not int:
            raise DataError(f'{where} has "{key}" {entry[key]!r}; an id is a whole number')
    sentences = entry.get("sentences")
    if not isinstance(sentences, list):
        raise DataError(f'{where} has no list "sentences"; it holds the captions')
    for sentence in sentences:
        check_sentence(sentence, where)


def check_sentence(sentence: Any, where: str) -> None:
    """Raise a DataError, which begins with `where`, for what is no caption in Karpathy's form."""
    tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
    raw = sentence.get("raw") if isinstance(sentence, dict) else None
    if tokens is None and raw is None:
        raise DataError(f'{where} has a sentence with neither "raw" nor "tokens"; it needs one')
    if raw is not None and not isinstance(raw, str):
        raise DataError(f'{where} has a sentence whose "raw" is {raw!r}; it is a text')
    if tokens is not None and not (
        isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    ):
        raise DataError(f'{where} has a sentence whose "tokens" are no list of words')
    if "sentid" in sentence and type(as_id(sentence["sentid"])) is not int:
        raise DataError(f'{where} has "sentid" {sentence["sentid"]!r}; an id is a whole number')


def _image(entry: dict[str, Any], image_id: int, folder: Path) -> CaptionedImage:
    sentences, captions = entry["sentences"], captions_of(entry)
    ids = tuple(as_id(sentence["sentid"]) for sentence in sentences if "sentid" in sentence)
    return CaptionedImage(
        image_id=image_id,
        path=folder / entry["filename"],
        filename=entry["filename"],
        split=entry["split"],
        captions=tuple(text for text, _ in captions),
        tokens=tuple(words for _, words in captions),
        sentence_ids=ids if len(ids) == len(sentences) else (),
        extra={key: value for key, value in entry.items() if key not in _OWN_KEYS},
        cocoid=as_id(entry["cocoid"]) if "cocoid" in entry else None,
        dataset=dataset if isinstance(dataset := entry.get("dataset"), str) else "",
        own_id=entry.get("own_id"),
    )


def _words(sentence: dict[str, Any]) -> tuple[str, ...]:
    tokens = sentence.get("tokens")
    # COCO has 6.5 million tokens of 30,000 words: keep each word once.
    return tuple(map(sys.intern, tokenize(sentence["raw"]) if tokens is None else tokens))


def _with_captions(image: CaptionedImage, numbers: list[int]) -> CaptionedImage:
    return replace(
        image,
        captions=tuple(image.captions[number] for number in numbers),
        tokens=tuple(image.tokens[number] for number in numbers),
        sentence_ids=tuple(image.sentence_ids[n] for n in numbers) if image.sentence_ids else (),
    )


def _find_folder(
    json_path: Path, images_dir: Path | None, named_dir: Any, entries: list[Any]
) -> Path:
    if images_dir is not None:
        if not Path(images_dir).is_dir():
            raise DataError(f"the folder of images {images_dir} does not exist; check --images")
        return Path(images_dir)
    names = (named_dir, *IMAGE_FOLDERS) if isinstance(named_dir, str) else IMAGE_FOLDERS
    beside = [json_path.parent / name for name in names]
    existing = [folder for folder in beside if os.path.isdir(folder)]
    few = entries[:: max(1, len(entries) // 20)]  # several, because single ones may be missing
    for folder in (*existing, json_path.parent):
        paths = (_subfolder(folder, entry.get("filepath")) / entry["filename"] for entry in few)
        # Unlike a path's own method this takes names that no file can have: too long, with NUL.
        if any(map(os.path.isfile, paths)):
            return folder
    return next(iter(existing), json_path.parent)


def _subfolder(folder: Path, place: str | None) -> Path:
    return folder / place if place and os.path.isdir(folder / place) else folder
