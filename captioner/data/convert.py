"""Conversion of a table of captions to Karpathy's JSON, the format that training reads.

A table is CSV with a header, or JSONL: `image,caption` and optionally `split`, with one row per
caption. Without splits the images are divided by the hash of their names and a seed, so the same
table is always divided the same way. A table with bad rows is refused as a whole, with their lines.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.data.karpathy import (
    RESTVAL,
    SPLITS,
    CaptionDataset,
    read_karpathy,
    to_entry,
)
from captioner.errors import DataError, OptionError
from captioner.files import write_atomically
from captioner.vocabulary import tokenize

DELIMITERS: Mapping[str, str] = {".csv": ",;\t", ".txt": ",;\t", ".tsv": "\t"}
JSON_LINES = frozenset({".jsonl", ".ndjson"})
COLUMNS = ("image", "caption")
SPLIT_WORDS: Mapping[str, str] = {
    **{split: split for split in (*SPLITS, RESTVAL)},
    "dev": "val",
    "valid": "val",
    "validation": "val",
}
LINES_NAMED = 10

Row = tuple[int, Mapping[str, Any]]  # line in the file, from 1; column to value


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
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise OptionError(
            f"val_share is {val_share} and test_share {test_share}; "
            "neither may be negative, and together they must leave something to train with"
        )
    source = Path(source)
    table = _read_table(source)
    folder = source.parent if images is None else Path(images)
    if not any((folder / filename).is_file() for filename in table):
        raise DataError(
            f"none of the {len(table):,} images of {source} is in {folder}: there is no "
            f"{folder / next(iter(table))}; name their folder with --images"
        )
    if not any(image.split for image in table.values()):
        _divide(table, val_share, test_share, seed)
    json_path = _place(source, out)
    content: dict[str, Any] = {"dataset": (name or source.stem).lower(), "images": _entries(table)}
    if folder.resolve() != json_path.parent.resolve():
        content["images_dir"] = os.path.relpath(folder.resolve(), json_path.parent.resolve())
    write_atomically(json_path, json.dumps(content, ensure_ascii=False).encode())
    return read_karpathy(json_path)


def _place(source: Path, out: Path | None) -> Path:
    filename = f"dataset_{source.stem}.json"
    if out is None:
        return source.with_name(filename)
    return out if out.suffix == ".json" else out / filename


def _read_table(source: Path) -> dict[str, _Image]:
    """Return the images by name, in the order of the table."""
    table: dict[str, _Image] = {}
    bad: list[tuple[int, str]] = []
    for line, row in _rows(source):
        try:
            _take_row(table, line, row)
        except DataError as problem:
            bad.append((line, str(problem)))
    if any(image.split for image in table.values()):
        bad += [
            (image.line, "it has no split, though others have one")
            for image in table.values()
            if not image.split
        ]
    if bad:
        bad.sort()
        line, reason = bad[0]
        others = ", ".join(str(other) for other, _ in bad[1:LINES_NAMED])
        more = f" ({len(bad) - 1} more bad rows, lines {others})" if others else ""
        raise DataError(f"{source}, line {line}: {reason}; correct the table{more}")
    if not table:
        raise DataError(f"{source} has no rows; every row names an image and a caption")
    return table


def _take_row(table: dict[str, _Image], line: int, row: Mapping[str, Any]) -> None:
    for column in COLUMNS:
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise DataError(f"there is no {column}")
    caption = " ".join(row["caption"].split())
    if not tokenize(caption):
        raise DataError(f"the caption {caption!r} has no words")
    word = row.get("split") or ""
    split = SPLIT_WORDS.get(str(word).strip().lower(), "")
    if word and not split:
        raise DataError(f"the split is {word!r}, not one of {', '.join(SPLITS)}")
    image = table.setdefault(os.path.normpath(row["image"].strip()), _Image(line=line))
    if split and image.split and split != image.split:
        raise DataError(f"the image is in {split} here, but in {image.split} before")
    image.split = image.split or split
    image.captions.append(caption)


def _rows(source: Path) -> Iterator[Row]:
    suffix = source.suffix.lower()
    if suffix not in DELIMITERS and suffix not in JSON_LINES:
        known = ", ".join(sorted({*DELIMITERS, *JSON_LINES}))
        raise DataError(f"{source} is no table that can be converted; its name ends in {known}")
    try:
        text = source.read_bytes()
    except OSError as problem:
        raise DataError(f"{source} cannot be read: {problem.strerror}; check the path") from None
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = text.count(b"\n", 0, problem.start) + 1
        raise DataError(
            f"{source}, line {line}: it is not UTF-8; save the table as UTF-8"
        ) from None
    if suffix in JSON_LINES:
        return _json_rows(source, decoded)
    return _csv_rows(source, decoded, DELIMITERS[suffix])


def _json_rows(source: Path, text: str) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as problem:
            raise DataError(f"{source}, line {line}: it is not valid JSON: {problem}") from None
        if not isinstance(row, dict):
            raise DataError(f'{source}, line {line}: it is no object with "image" and "caption"')
        yield line, row


def _csv_rows(source: Path, text: str, delimiters: str) -> Iterator[Row]:
    first_line = text.split("\n", 1)[0]
    delimiter = max(delimiters, key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if not set(COLUMNS) <= set(header):
            raise DataError(
                f"{source}, line 1: the header is {first_line.strip()!r}; it must name "
                "the columns image and caption, and may name split"
            )
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
            yield line, dict(zip(header, row, strict=True))
    except csv.Error as problem:
        raise DataError(f"{source}, line {reader.line_num}: {problem}; check the quotes") from None


def _divide(table: dict[str, _Image], val_share: float, test_share: float, seed: int) -> None:
    """Give each image a split: at least one where its share is not zero and there are three."""

    def draw(filename: str) -> bytes:
        return hashlib.sha256(f"{seed}:{filename}".encode()).digest()

    least = 1 if len(table) >= len(SPLITS) else 0
    drawn = sorted(table, key=draw)
    for split, share in (("test", test_share), ("val", val_share)):
        size = max(round(share * len(table)), least if share else 0)
        for filename in drawn[:size]:
            table[filename].split = split
        del drawn[:size]
    for filename in drawn:
        table[filename].split = "train"


def _entries(table: dict[str, _Image]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    sentences = 0
    for number, (filename, image) in enumerate(table.items()):
        entries.append(to_entry(number, filename, image.split, image.captions, sentences))
        sentences += len(image.captions)
    return entries
