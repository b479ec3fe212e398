"""Conversion of a table of captions to Karpathy's JSON, the format that training reads.

A table is CSV with a header, or JSONL: `image`, `caption` and optionally `split`. An image has as
many rows as captions, or a row has several captions: columns named `caption`, also with a number,
or a list in JSON. Without splits the images are divided by the hash of their names and a seed, so
the same table is always divided the same way. A table with bad rows is refused as a whole, with
their lines.
"""

import csv
import io
import json
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.data.hold_out import draw
from captioner.data.karpathy import RESTVAL, SPLITS, CaptionDataset, to_entry
from captioner.data.karpathy_writer import json_path_in, write_karpathy
from captioner.errors import DataError, OptionError
from captioner.text import holds_half_character
from captioner.vocabulary import tokenize

DELIMITERS: Mapping[str, str] = {".csv": ",;\t", ".txt": ",;\t", ".tsv": "\t"}
JSON_LINES = frozenset({".jsonl", ".ndjson"})
_CAPTION_COLUMN = re.compile(r"captions?[ _.-]?\d*")
SPLIT_WORDS: Mapping[str, str] = {
    **{split: split for split in (*SPLITS, RESTVAL)},
    "dev": "val",
    "valid": "val",
    "validation": "val",
}
LINES_NAMED = 10

Row = Sequence[tuple[str, Any]]  # columns and values; a column may come again


@dataclass
class _Image:
    captions: list[str] = field(default_factory=list)
    split: str = ""
    line: int = 0  # where it is met first


def convert(
    source: Path,
    out: Path | None = None,
    *,
    images: Path | None = None,
    name: str | None = None,
    val_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
) -> CaptionDataset:
    """Write the JSON of a table, and return the data set that it holds.

    Images are named relative to the table's folder, or to `images`. `out` is the JSON, or a
    folder for it; without it, it lies beside the table. `name` is the data set's name, that of
    the table if not given. The shares count where the table names no split.

    Raises:
        DataError: the table cannot be read, has bad rows, or names no image that exists.
        OptionError: the shares are out of range.
    """
    if not (val_share >= 0 and test_share >= 0 and val_share + test_share < 1):
        raise OptionError(
            f"val_share is {val_share} and test_share {test_share}; "
            "neither may be negative, and together they must leave something to train with"
        )
    source = Path(source)
    table = _read_table(source)
    folder = source.parent if images is None else Path(images)
    if not any(os.path.isfile(folder / filename) for filename in table):
        raise DataError(
            f"none of the {len(table):,} images of {source} is in {folder}: there is no "
            f"{folder / next(iter(table))}; name their folder with --images"
        )
    if not any(image.split for image in table.values()):
        _divide(table, val_share, test_share, seed)
    out = json_path_in(out or source.parent, source.stem)
    return write_karpathy(out, name or source.stem, _entries(table), folder)


def _read_table(source: Path) -> dict[str, _Image]:
    """Return the images by name, in the order of the table."""
    table: dict[str, _Image] = {}
    bad: list[tuple[int, str]] = []
    for line, row in _rows(source):
        try:
            _take_row(table, line, row)
        except DataError as problem:
            bad.append((line, str(problem)))
    lacking = [image.line for image in table.values() if not image.split]
    if len(lacking) < len(table):
        bad += [(line, "it has no split, though others have one") for line in lacking]
    if bad:
        bad.sort()
        line, reason = bad[0]
        others = ", ".join(str(other) for other, _ in bad[1:LINES_NAMED])
        more = f" ({len(bad) - 1} more bad rows, lines {others})" if others else ""
        raise DataError(f"{source}, line {line}: {reason}; correct the table{more}")
    if not table:
        raise DataError(f"{source} has no rows; every row names an image and a caption")
    return table


def _take_row(table: dict[str, _Image], line: int, row: Row) -> None:
    values = dict(row)
    filename = values.get("image")
    if not isinstance(filename, str) or not filename.strip():
        raise DataError("there is no image")
    captions = _captions(row)
    word = values.get("split") or ""
    split = SPLIT_WORDS.get(str(word).strip().lower(), "")
    if word and not split:
        raise DataError(f"the split is {word!r}, not one of {', '.join(SPLITS)}")
    image = table.setdefault(os.path.normpath(filename.strip()), _Image(line=line))
    if split and image.split and split != image.split:
        raise DataError(f"the image is in {split} here, but in {image.split} before")
    image.split = image.split or split
    image.captions += captions


def _captions(row: Row) -> list[str]:
    """Return the captions of a row; of several columns some may be empty."""
    given = [value for name, value in row if _CAPTION_COLUMN.fullmatch(name) and value is not None]
    texts = [text for value in given for text in (value if isinstance(value, list) else [value])]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("there is no caption that is a text")
    captions = [" ".join(text.split()) for text in texts if text.strip()]
    if not captions:
        raise DataError("there is no caption")
    for caption in captions:
        if holds_half_character(caption):
            raise DataError(f"the caption {caption!r} holds half of a character")
        if not tokenize(caption):
            raise DataError(f"the caption {caption!r} has no words")
    return captions


def _rows(source: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows, each with its first line, from 1."""
    suffix = source.suffix.lower()
    if suffix not in DELIMITERS and suffix not in JSON_LINES:
        known = ", ".join(sorted({*DELIMITERS, *JSON_LINES}))
        raise DataError(f"{source} is no table that can be converted; its name ends in {known}")
    try:
        content = source.read_bytes()
    except OSError as problem:
        raise DataError(f"{source} cannot be read: {problem.strerror}; check the path") from None
    # UTF-16 is what Excel calls "Unicode text".
    is_utf16 = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        name = "UTF-16" if is_utf16 else "UTF-8"
        raise DataError(
            f"{source}, line {line}: it is not {name}; save the table as UTF-8"
        ) from None
    if suffix in JSON_LINES:
        return _json_rows(source, text)
    return _csv_rows(source, text, DELIMITERS[suffix])


def _json_rows(source: Path, text: str) -> Iterator[tuple[int, Row]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=tuple)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"{source}, line {line}: it is not valid JSON: {problem}") from None
        if not isinstance(row, tuple):
            raise DataError(f'{source}, line {line}: it is no object with "image" and "caption"')
        _refuse_twice(source, line, [name for name, _ in row])
        yield line, row


def _csv_rows(source: Path, text: str, delimiters: str) -> Iterator[tuple[int, Row]]:
    first_line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = max(delimiters, key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if "image" not in header or not any(map(_CAPTION_COLUMN.fullmatch, header)):
            raise DataError(
                f"{source}, line 1: the header is {first_line.strip()!r}; it must name "
                "the columns image and caption, and may name split"
            )
        _refuse_twice(source, 1, header)
        before = reader.line_num
        for row in reader:
            line, before = before + 1, reader.line_num  # a quoted caption may go over lines
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{source}, line {line}: it has {len(row)} fields and the header "
                    f'{len(header)}; put captions that hold a {delimiter!r} in double quotes (")'
                )
            yield line, list(zip(header, row, strict=True))
    except csv.Error as problem:
        raise DataError(f"{source}, line {reader.line_num}: {problem}; check the quotes") from None


def _refuse_twice(source: Path, line: int, columns: Sequence[str]) -> None:
    """Raise where the image or the split is given twice."""
    counts = Counter(columns)
    for name in ("image", "split"):
        if counts[name] > 1:
            raise DataError(f'{source}, line {line}: "{name}" is there twice; leave one of them')


def _divide(table: dict[str, _Image], val_share: float, test_share: float, seed: int) -> None:
    """Give each image a split: at least one where its share is not zero and there are three."""

    least = 1 if len(table) >= len(SPLITS) else 0
    drawn = sorted(table, key=lambda filename: draw(filename, seed))
    for split, share in (("test", test_share), ("val", val_share)):
        size = max(round(share * len(table)), least if share else 0)
        for filename in drawn[:size]:
            table[filename].split = split
        del drawn[:size]
    if not drawn:
        raise OptionError(
            f"val_share {val_share} and test_share {test_share} of {len(table)} images leave none "
            "to train with; give smaller ones"
        )
    for filename in drawn:
        table[filename].split = "train"


def _entries(table: dict[str, _Image]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    sentences = 0
    for number, (filename, image) in enumerate(table.items()):
        entries.append(to_entry(number, filename, image.split, image.captions, sentences))
        sentences += len(image.captions)
    return entries
