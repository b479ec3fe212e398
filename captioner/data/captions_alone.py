"""Captions without photographs: a table or a JSON of captions whose images are not there.

A table (`.tsv`, `.csv`) has a header with the column `caption`, and may have one before it that
tells which captions are of one image: `cocoid`, or any other name. A JSON has Karpathy's form, but
its entries need no `filename`; those of val and test are left out, for nothing is judged by them.
"""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.data.karpathy import (
    RESTVAL,
    CaptionedImage,
    as_id,
    caption_problems,
    captions_of,
    check_sentence,
)
from captioner.errors import DataError
from captioner.files import read_json
from captioner.vocabulary import tokenize

_TRAINED_ON = (None, "train", RESTVAL)
_COCOID = "cocoid"


@dataclass(frozen=True, slots=True)
class CaptionsAlone:
    """The captions of one image that is not there, and the words of each."""

    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    cocoid: int | None = None  # COCO's number of the photograph, where the file has it


def read_captions_alone(path: Path) -> list[CaptionsAlone]:
    """Return the captions of a file, those of one image together; empty ones are left out.

    Raises:
        DataError: the file is missing or of another form, holds no caption, or one that training
            cannot use.
    """
    found = _from_json(path) if path.suffix.lower() == ".json" else _from_table(path)
    kept = []
    for where, captions, cocoid in found:
        full = [(text, words) for text, words in captions if words]
        if not full:
            continue
        texts, words = zip(*full, strict=True)
        one = CaptionsAlone(texts, words, cocoid)
        for problem in caption_problems(one):
            raise DataError(f"{path}, {where}: {problem}; correct the file")
        kept.append(one)
    if not kept:
        raise DataError(f"{path} holds no caption to train with; check what made the file")
    return kept


def without_those_of(
    images: Iterable[CaptionedImage], alone: Sequence[CaptionsAlone]
) -> list[CaptionsAlone]:
    """Return those that are not of these images, by COCO's numbers where both have them."""
    judged = {image.cocoid for image in images if image.cocoid is not None}
    return [one for one in alone if one.cocoid not in judged]


_Captions = Collection[tuple[str, tuple[str, ...]]]  # each with its words


def _from_json(path: Path) -> Iterator[tuple[str, _Captions, int | None]]:
    content = read_json(path, "file of captions", DataError)
    entries = content.get("images") if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        raise DataError(
            f'{path} is not in Karpathy\'s form, an object with a list "images", each with its '
            '"sentences"'
        )
    for position, entry in enumerate(entries):
        where = f"image {position}"
        sentences = entry.get("sentences") if isinstance(entry, Mapping) else None
        if not isinstance(sentences, list):
            raise DataError(f'{path}, {where} has no list "sentences"; it holds the captions')
        for sentence in sentences:
            check_sentence(sentence, f"{path}, {where}")
        if entry.get("split") in _TRAINED_ON:
            yield where, captions_of(entry), _number(path, where, entry.get(_COCOID))


def _from_table(path: Path) -> Iterator[tuple[str, _Captions, int | None]]:
    is_tsv = path.suffix.lower() == ".tsv"
    if not is_tsv and path.suffix.lower() != ".csv":
        raise DataError(
            f"{path} holds no captions that can be read; its name ends in .csv, .json, .tsv"
        )
    try:
        text = path.read_text("utf-8-sig")
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8; save it as UTF-8") from None
    # A TSV has no quotes: a caption may begin with one.
    style: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "delimiter": "\t"} if is_tsv else {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **style)
    groups: dict[str, tuple[str, list[tuple[str, tuple[str, ...]]]]] = {}
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if header.count("caption") != 1 or len(header) > 2:
            raise DataError(
                f"{path}, line 1: the header is {', '.join(header)!r}; it must be caption, or the "
                "column that names the image and caption"
            )
        place = header.index("caption")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: it has {len(row)} fields and the header "
                    f"{len(header)}; correct the table"
                )
            line = f"line {reader.line_num}"
            key = row[1 - place].strip() if len(header) == 2 else line
            groups.setdefault(key, (line, []))[1].append((row[place], tuple(tokenize(row[place]))))
    except csv.Error as problem:
        raise DataError(f"{path}, line {reader.line_num}: {problem}; check the quotes") from None
    is_coco = _COCOID in header
    for key, (line, captions) in groups.items():
        yield line, captions, _number(path, line, key) if is_coco else None


def _number(path: Path, where: str, value: Any) -> int | None:
    number = as_id(value)
    if number is not None and type(number) is not int:
        raise DataError(f"{path}, {where} has {_COCOID} {value!r}; it is a whole number")
    return number
