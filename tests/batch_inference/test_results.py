"""Files of captions: what pyarrow itself would write, and made without loading pandas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.batch_inference.results import (
    SCHEMA,
    Row,
    part_name,
    read_summary,
    write_part,
)
from captioner.batch_inference.storage import OutputFolder
from captioner.commands.caption_dataset import _Pace
from captioner.errors import StorageError

ROWS = [
    Row("a.jpg", "a dog", -1.25, 0.5, 640, 480),
    Row("", "", 0.0, None, 1, 2**31 - 1),
    Row("tar://ü/☃ \U0001f600.jpg::x.tar", "a", -1e-300, 1.0, 3, 4),
    Row("b.jpg", error="unreadable: it is gone"),
    *(Row(f"{number}.jpg", "more than eight rows", -float(number)) for number in range(9)),
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[3:4], []])
def test_a_part_holds_its_rows_as_the_schema_says(rows: list[Row], tmp_path: Path) -> None:
    out = OutputFolder(str(tmp_path))
    summary = write_part(out, 7, rows, "the model", {"decode": 0.5})
    found = pq.read_table(tmp_path / part_name(7))
    found.validate(full=True)
    columns = [*zip(*rows, strict=True), ("the model",) * len(rows)]
    expected = pa.table(
        [pa.array(values, kind) for values, kind in zip(columns, SCHEMA.types, strict=True)]
        if rows
        else SCHEMA.empty_table().columns,
        schema=SCHEMA,
    )
    assert found.equals(expected)
    assert summary == read_summary(out, 7)
    assert summary.failures.total() == sum(row.error is not None for row in rows)


def test_what_is_no_text_is_written_as_escapes(tmp_path: Path) -> None:
    path, error = os.fsdecode(b"caf\xe9\n.jpg"), os.fsdecode(b"unreadable: a link to caf\xe9.jpg")
    write_part(OutputFolder(str(tmp_path)), 0, [Row(path, "half \ud83d", error=error)], "m", {})
    (found,) = pq.read_table(tmp_path / part_name(0)).to_pylist()
    assert found["path"] == r"caf\xe9\n.jpg"
    assert found["caption"] == r"half \ud83d"
    assert found["error"] == r"unreadable: a link to caf\xe9.jpg"


def test_writing_does_not_import_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    code = (
        "import json, sys\n"
        "from captioner.batch_inference.results import Row, write_part\n"
        "from captioner.batch_inference.storage import OutputFolder\n"
        f"write_part(OutputFolder({str(tmp_path)!r}), 0, [Row('a'), Row('b', 'c')], 'm', {{}})\n"
        "print(json.dumps('pandas' in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


def test_the_steady_rate_leaves_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = _Pace(now)
    assert (pace.seconds_to_first, pace.steady_rate()) == (None, None)
    # The start takes 7 s; from then on there are 4 photographs a second.
    for now in (107.0, 107.0, *(107.0 + second for second in range(1, 11))):  # noqa: B007
        pace.add(4, 48)
    assert (pace.seconds_to_first, pace.done) == (7.0, 48)
    assert pace.steady_rate() == pytest.approx(4.0)


def test_an_output_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match=r"/out is no folder; choose another --out$"):
        OutputFolder(str(tmp_path / "out")).read("_manifest.json")
