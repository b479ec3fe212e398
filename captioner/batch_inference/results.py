"""The results of a shard: a Parquet file with a row for each photograph.

| column | type | what |
| --- | --- | --- |
| path | string | path or URL; of what lies in a tar, a URL of fsspec |
| caption | string | null where there is an error |
| log_prob | double | natural logarithm of the caption's probability |
| confidence | double | of a calibrated model, from 0 to 1; else null |
| width, height | int32 | pixels of the upright picture |
| error | string | kind, colon, what is wrong; null where there is a caption |
| model | string | SHA-256 of the model's folder |

Half characters and control characters are written as escapes, wherever a text comes from: a name in
a tar, or in an error, need not be UTF-8. The file's own metadata hold the counts, so that a resumed
job need not read the rows.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captioner.batch_inference.storage import OutputFolder, open_file
from captioner.errors import DataError
from captioner.text import escaped

SUMMARY = b"captioner.summary"
PART = "part-"
_SUFFIX = ".parquet"

_NUMBERS = {pa.float64(): np.float64, pa.int32(): np.int32}
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("caption", pa.string()),
        ("log_prob", pa.float64()),
        ("confidence", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("model", pa.string()),
    ]
)


class Row(NamedTuple):
    path: str
    caption: str | None = None
    log_prob: float | None = None
    confidence: float | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class ShardSummary:
    """What became of a shard."""

    number: int
    photographs: int  # rows
    failures: Counter[str] = field(default_factory=Counter)  # by kind
    seconds: Mapping[str, float] = field(default_factory=dict)  # of work, by what was done

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "photographs": self.photographs,
            "failures": dict(self.failures),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        return cls(
            facts["number"],
            facts["photographs"],
            Counter(facts["failures"]),
            facts["seconds"],
        )


def part_name(number: int) -> str:
    """Return the name of the file with the results of shard `number`."""
    return f"{PART}{number:06d}{_SUFFIX}"


def part_number(name: str) -> int | None:
    """Return the number of the shard that a file has the results of; None for another file."""
    digits = name.removeprefix(PART).removesuffix(_SUFFIX)
    return int(digits) if digits.isdecimal() and part_name(int(digits)) == name else None


def write_part(
    out: OutputFolder, number: int, rows: Sequence[Row], model: str, seconds: Mapping[str, float]
) -> ShardSummary:
    """Write the results of a shard, whole or not at all, and return their counts.

    Raises:
        StorageError: they cannot be written.
    """
    failures = Counter(row.error.partition(":")[0] for row in rows if row.error is not None)
    summary = ShardSummary(number, len(rows), failures, seconds)
    columns = list(zip(*rows, strict=True)) or [()] * (len(SCHEMA) - 1)
    columns.append((model,) * len(rows))
    arrays = [_array(values, kind) for values, kind in zip(columns, SCHEMA.types, strict=True)]
    table = pa.table(arrays, schema=SCHEMA)
    table = table.replace_schema_metadata({SUMMARY: json.dumps(summary.to_json()).encode("ascii")})
    content = BytesIO()
    pq.write_table(table, content, compression="zstd")
    # Who finishes the job waits for the disk. To wait for each file of 16 photographs would take a
    # tenth of the time; what a power failure damages before is done again.
    out.write(part_name(number), content.getvalue(), durable=False)
    return summary


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values as a column of a type in `SCHEMA`, None as null.

    `pa.array` would do that too, but it imports pandas where that is installed: a second and 60 MiB
    of each process.
    """
    count = len(values)
    is_there = np.array([value is not None for value in values], dtype=bool)
    validity = pa.py_buffer(np.packbits(is_there, bitorder="little").tobytes())
    if kind == pa.string():
        texts = [escaped(value or "").encode("utf-8") for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        data = pa.py_buffer(b"".join(texts))
        return pa.StringArray.from_buffers(count, pa.py_buffer(ends.tobytes()), data, validity)
    numbers = np.array([0 if value is None else value for value in values], _NUMBERS[kind])
    return pa.Array.from_buffers(kind, count, [validity, pa.py_buffer(numbers.tobytes())])


def read_summary(out: OutputFolder, number: int) -> ShardSummary | None:
    """Return the counts of a shard that is written; None where its file is damaged."""
    try:
        with open_file(out.file(part_name(number))) as file:
            facts = pq.read_metadata(file)
        return ShardSummary.from_json(json.loads((facts.metadata or {})[SUMMARY]))
    except (pa.ArrowException, OSError, DataError, KeyError, ValueError):
        return None
