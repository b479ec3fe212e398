"""Photographs in Parquet files: which column holds them, which rows are read together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.batch_inference import storage
from captioner.errors import DataError, OptionError
from captioner.text import in_one_line

PATH_COLUMNS = ("path", "image_path", "filepath", "file_path", "file", "filename", "file_name")
URL_COLUMNS = ("url", "image_url", "uri", "image_uri")
NAME_COLUMNS = ("__key__", "key", "id", "image_id")  # what a row is called beside its bytes
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "bytes", "content", "data")
BYTES, PATH = "bytes", "path"  # members of an image column as data sets of Hugging Face have it
READ_AT_ONCE = 1 << 20  # bytes of a column, so that a large row group is never held whole
ROWS_AT_ONCE = 32
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


def choose_column(file: str, wanted: str | None) -> str:
    """Return the column that has the photographs, as bytes or as paths.

    Raises:
        OptionError: there is none, or not the wanted one.
        DataError: the file is damaged.
    """
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
    usable = [field.name for field in schema if _is_image(field.type) or _is_text(field.type)]
    if wanted is not None:
        if wanted in usable:
            return wanted
        raise OptionError(
            f"--column is {wanted!r}, and {file} has no such column of bytes or paths; "
            f"it has {', '.join(usable) or 'none at all'}"
        )
    images = [field.name for field in schema if _is_image(field.type)]
    if images:
        return next((name for name in IMAGE_COLUMNS if name in images), images[0])
    named = (*PATH_COLUMNS, *IMAGE_COLUMNS, *URL_COLUMNS)
    if (found := next((name for name in named if name in usable), None)) is not None:
        return found
    raise OptionError(
        f"{file} has no column of images or paths that is known by its name; name one with "
        f"--column: {', '.join(usable) or 'it has none of bytes or text'}"
    )


def row_ranges(file: str, size: int) -> list[tuple[int, int]]:
    """Return first row and number of rows of each shard of a file.

    They are whole row groups, together `size` rows or more; one of more than twice as many is cut.
    A damaged file is one shard, whose reader says what is wrong.
    """
    try:
        with _opened(file) as parquet:
            facts = parquet.metadata
            groups = [facts.row_group(one).num_rows for one in range(facts.num_row_groups)]
    except DataError:
        return [(0, 1)]
    ranges: list[tuple[int, int]] = []
    start = rows = 0
    for group in groups:
        rows += group
        while rows > 2 * size:
            ranges.append((start, size))
            start, rows = start + size, rows - size
        if rows >= size:
            ranges.append((start, rows))
            start, rows = start + rows, 0
    return [*ranges, (start, rows)] if rows else ranges


def read_rows(
    file: str, column: str, start: int, count: int
) -> Iterator[tuple[str, bytes | str | None]]:
    """Yield of each row what it is called, and the photograph's bytes or its path; None for null.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
        if column not in schema.names:
            raise DataError(f"{file} has no column {column!r}, as the first file of the source has")
        is_image = _is_image(schema.field(column).type)
        names = _first(schema, (*PATH_COLUMNS, *NAME_COLUMNS, *URL_COLUMNS)) if is_image else column
        columns = [column] if names in (None, column) else [column, names]
        for row, values in _rows(parquet, columns, start, count):
            value = values[column]
            name = values[names] if names is not None and names != column else None
            name = None if name is None else str(name)  # a number may be 0
            if isinstance(value, dict):
                name, value = name or value.get(PATH), value.get(BYTES) or value.get(PATH)
            if isinstance(value, str):
                value = storage.joined(storage.parent(file), value) if value else None
                name = value if not is_image else name or value
            yield name or f"{file}#{row}", value


def _rows(
    parquet: pq.ParquetFile, columns: Sequence[str], start: int, count: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    groups, before, position = [], 0, 0
    for group in range(parquet.metadata.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if position + rows <= start:
            before += rows
        elif position < start + count:
            groups.append(group)
        position += rows
    row = before
    batches = (
        batch
        for group in groups  # one at a time, lest a damaged one cost those before it
        for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(columns))
    )
    for batch in batches:
        low, high = max(start, row), min(start + count, row + batch.num_rows)
        if low < high:
            yield from enumerate(batch.slice(low - row, high - low).to_pylist(), low)
        row += batch.num_rows
        if row >= start + count:
            return


def _first(schema: pa.Schema, names: Sequence[str]) -> str | None:
    return next(
        (one for one in names if one in schema.names and _is_name(schema.field(one).type)), None
    )


def _is_name(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(test(_plain(kind)) for test in _TEXT)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, which a file may number in a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_image(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    if pa.types.is_struct(kind):
        return any(member.name == BYTES and _is_image(member.type) for member in kind)
    return any(test(kind) for test in _BYTES)


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with storage.open_file(path) as file:
        try:
            parquet = pq.ParquetFile(file, buffer_size=READ_AT_ONCE)
        except (pa.ArrowException, OSError) as problem:
            raise DataError(
                f"{path} is no readable Parquet file: {in_one_line(problem)[:200]}"
            ) from problem
        yield parquet
