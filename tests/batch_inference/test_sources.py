"""Every photograph of a source is in exactly one shard, whatever the source is."""

import glob
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.batch_inference import storage
from captioner.batch_inference.reading import Record, read_shard
from captioner.batch_inference.sources import Shard, cut, find
from captioner.errors import CaptionerError, DataError, OptionError


def shards_of(
    source: Path | str, folder: Path, size: int | None = None, column: str | None = None
) -> list[Shard]:
    def write_list(paths: Iterable[str]) -> str:
        written = folder / "listed.txt"
        written.write_bytes(b"".join(map(storage.line_for, paths)))
        return str(written)

    listing = find(str(source), column=column, write_list=write_list, leave_out=str(folder))
    shards = list(cut(listing, size))
    assert [one.number for one in shards] == list(range(len(shards)))
    assert all(Shard.from_line(one.to_line()) == one for one in shards)
    return shards


def records_of(shards: list[Shard]) -> list[Record]:
    found = [list(read_shard(one)) for one in shards]
    for one, records in zip(shards, found, strict=True):
        assert one.photographs in (None, len(records))
    return [record for records in found for record in records]


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    """Where lists are written, which is no part of a source."""
    folder = tmp_path / "source" / "captions"
    folder.mkdir(parents=True)
    return folder


def put(folder: Path, *names: str) -> dict[str, bytes]:
    """Write a file of its own content for each name; its content tells what it is taken for."""
    content = {}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content[str(path)] = b"%d" % number
        path.write_bytes(content[str(path)])
    return content


def test_a_folder_is_its_photographs_and_those_of_its_subfolders(aside: Path) -> None:
    folder = aside.parent
    odd = [
        "new\nline.jpg",
        '"quoted".jpg',
        " blank.jpg",
        "two::colons.jpg",
        os.fsdecode(b"\xe9.jpg"),
    ]
    taken = put(folder, "b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.heic", *odd)
    put(folder, "notes.txt", ".hidden.jpg", ".git/e.jpg", "captions/f.jpg", "sub/table.csv")
    (folder / "gone.jpg").symlink_to("/nowhere.jpg")
    (folder / "linked.jpg").symlink_to(folder / "b.jpg")
    shards = shards_of(folder, aside, size=3)
    records = {one.path: one for one in records_of(shards)}
    gone = records.pop(str(folder / "gone.jpg"))
    assert gone.error.startswith("unreadable: there is no such file")
    assert {path: one.data for path, one in records.items()} == {
        **taken,
        str(folder / "linked.jpg"): b"0",
    }
    assert [one.photographs for one in shards] == [3, 3, 3, 2]


@pytest.mark.timeout(30)
def test_a_pattern_is_what_python_finds_though_links_lead_upwards(aside: Path) -> None:
    folder = aside.parent
    put(folder, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "sub/deep/er/d.png", "other/deep/e.jpg")
    put(folder, ".hidden/f.jpg", "sub/.g.jpg", "sub/[x]/h.jpg")
    patterns = ["**/*.jpg", "**", "*/**/*.jpg", "sub/**/deep/*", "**/deep/**/*.png", "**/[ab].jpg"]
    expected = {
        one: sorted(filter(os.path.isfile, glob.glob(f"{folder}/{one}", recursive=True)))
        for one in patterns
    }
    for name in ("sub/up", "other/up"):  # two: as many paths as there are ways of going round
        (folder / name).symlink_to("..")
    for pattern, files in expected.items():
        assert files
        records = records_of(shards_of(folder / pattern, aside))
        assert sorted(one.path for one in records) == files


@pytest.mark.parametrize("name", ["set [1]", "set {0..3}", "why?", "all*"])
def test_what_exists_as_it_is_written_is_no_pattern(name: str, aside: Path) -> None:
    folder = aside.parent / name
    photographs = put(folder, f"p/{name}.jpg", "p/deep/a.jpg")
    (folder / f"{name}.txt").write_text("\n".join(photographs))
    make_tar(folder / f"tars/{name}.tar", {"a.jpg": b"of a tar"})
    pq.write_table(pa.table({"jpg": [b"of a table"]}), folder / f"{name}.parquet")
    found = {
        source: sorted(one.data for one in records_of(shards_of(folder / source, aside)))
        for source in ("p", "p/**/*.jpg", f"p/{name}.jpg", f"{name}.txt", "tars", "tars/*.tar")
    }
    both = [b"0", b"1"]
    assert found.pop(f"p/{name}.jpg") == [b"0"]
    assert found.pop("tars") == found.pop("tars/*.tar") == [b"of a tar"]
    assert list(found.values()) == [both] * 3
    for source in (f"tars/{name}.tar", f"{name}.parquet"):
        (record,) = records_of(shards_of(folder / source, aside))
        assert record.data.startswith(b"of a ")


@pytest.mark.parametrize("size", [1, 2, 7, 30, None])
def test_a_list_is_cut_into_its_lines(aside: Path, size: int | None) -> None:
    lines = [f"photograph {number}.jpg" for number in range(30)]
    content = put(aside.parent / "far", *lines)
    # Relative to the list, from the root, quoted; blank lines, the last newline and the mark with
    # which Windows begins a text do not count.
    first, second, *others = lines
    text = "\r\n".join(
        [
            f"far/{first}",
            "\n  ",
            str(aside.parent / "far" / second),
            *(f'"far/{one}"' for one in others),
        ]
    )
    (aside.parent / "list.txt").write_text("\ufeff" + text)
    shards = shards_of(aside.parent / "list.txt", aside, size)
    assert {one.path: one.data for one in records_of(shards)} == content
    assert len(shards) == -(-30 // (size or 16))


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def test_tars_are_read_one_a_shard_by_folder_pattern_and_braces(aside: Path) -> None:
    folder, expected = aside.parent, {}
    for number in range(3):
        members = {f"{number}/{one}.jpg": os.urandom(100 * one + 1) for one in range(4)}
        ending = ("tar", "tar", "tgz")[number]
        path = folder / f"shard-{number:03d}.{ending}"
        make_tar(path, {"0.json": b"{}", **members, "._0.jpg": b""}, "w:gz" if number == 2 else "w")
        expected.update({f"tar://{name}::{path}": data for name, data in members.items()})
    for source, count in (
        (folder, 12),
        (folder / "*.tar", 8),
        (folder / "shard-{000..001}.tar", 8),
    ):
        shards = shards_of(source, aside)
        records = records_of(shards)
        assert len(records) == count == 4 * len(shards)
        assert {one.path: one.data for one in records}.items() <= expected.items()
    name, data = next(iter(expected.items()))
    with fsspec.open(name) as file:  # such a path opens the photograph
        assert file.read() == data


def test_a_link_in_a_tar_is_told_of(aside: Path) -> None:
    path = aside.parent / "a.tar"
    (aside / "a.jpg").write_bytes(b"1")
    os.link(aside / "a.jpg", aside / "b.jpg")  # which tar stores as a link to the first name
    with tarfile.open(path, "w") as tar:
        tar.add(aside / "a.jpg", "a.jpg")
        tar.add(aside / "b.jpg", "b.jpg")
        tar.add(aside, "folder.jpg", recursive=False)
    first, second = records_of(shards_of(path, aside))
    assert (first.data, second.path) == (b"1", f"tar://b.jpg::{path}")
    assert second.error == (
        "unreadable: it is no file, but a link to a.jpg; store the photograph itself"
    )


def test_a_damaged_tar_costs_what_is_behind_the_damage(aside: Path) -> None:
    make_tar(aside.parent / "a.tar", {f"{one}.jpg": bytes(2000) for one in range(3)})
    whole = (aside.parent / "a.tar").read_bytes()
    (aside.parent / "a.tar").write_bytes(whole[:4000])
    first, *rest = records_of(shards_of(aside.parent / "a.tar", aside))
    assert first == Record(f"tar://0.jpg::{aside.parent / 'a.tar'}", bytes(2000))
    assert rest[-1].path == str(aside.parent / "a.tar")
    assert rest[-1].error.startswith("unreadable: ")


@pytest.mark.parametrize("damage", ["at the end of a member", "in a header", "to a header"])
def test_what_is_behind_a_damaged_header_is_not_left_out_in_silence(
    damage: str, aside: Path
) -> None:
    path = aside.parent / "a.tar"
    make_tar(path, {f"{one}.jpg": bytes(700) for one in range(4)})
    member = 512 + 1024  # header and whole blocks
    whole = bytearray(path.read_bytes())
    whole[2 * member + 150] ^= 0xFF  # in the third header's checksum
    cuts = {"at the end of a member": 2 * member, "in a header": 2 * member + 100}
    path.write_bytes(whole[: cuts.get(damage)])
    first, second, last = records_of(shards_of(path, aside))
    assert [one.path for one in (first, second)] == [f"tar://{one}.jpg::{path}" for one in range(2)]
    assert last.path == str(path)
    assert last.error.startswith("unreadable: ")
    assert f"at byte {2 * member:,}" in last.error


@pytest.mark.parametrize("seed", range(6))
def test_parquet_is_cut_into_all_of_its_rows(aside: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    expected, number = [], 0
    for file in range(2):
        groups = draw.integers(1, 40, draw.integers(1, 6))
        path = aside.parent / f"{file}.parquet"
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        schema = pa.schema([("n", pa.int64()), ("image", kind)])
        with pq.ParquetWriter(path, schema) as writer:
            for rows in groups:
                values = [b"%d" % one for one in range(number, number + rows)]
                images = [{"bytes": one, "path": f"{one.decode()}.jpg"} for one in values]
                writer.write_table(
                    pa.table({"n": list(range(rows)), "image": images}, schema=schema)
                )
                expected += values
                number += rows
    size = int(draw.integers(1, 50))
    shards = shards_of(aside.parent, aside, size)
    records = records_of(shards)
    assert [one.data for one in records] == expected
    assert [one.path for one in records] == [f"{one.decode()}.jpg" for one in expected]
    assert all(1 <= (one.photographs or 0) < 2 * size + 40 for one in shards)


def test_parquet_may_hold_bytes_or_paths_or_nulls(aside: Path) -> None:
    put(aside.parent / "p", "a.jpg")
    path = aside.parent / "x.parquet"
    pq.write_table(pa.table({"id": [7, 8], "jpg": [b"1", None], "caption": ["x", "y"]}), path)
    assert records_of(shards_of(path, aside)) == [
        Record("7", b"1"),
        Record("8", error="unreadable: the row holds no photograph"),
    ]
    images = [{"bytes": b"1", "path": "a.jpg"}] * 3
    pq.write_table(pa.table({"id": [0, 1, None], "image": images}), path)
    assert [one.path for one in records_of(shards_of(path, aside))] == ["0", "1", "a.jpg"]
    names = ["p/a.jpg", "p/b.jpg", ""]
    pq.write_table(pa.table({"title": ["x", "y", "z"], "file_name": names}), path)
    good, bad, none = records_of(shards_of(path, aside))
    assert none == Record(f"{path}#2", error="unreadable: the row holds no photograph")
    assert good == Record(str(aside.parent / "p/a.jpg"), b"0")
    assert bad.error == "unreadable: there is no such file; check the path"
    images = [{"bytes": None, "path": "p/a.jpg"}, {"bytes": b"1", "path": "elsewhere.jpg"}]
    pq.write_table(pa.table({"image": images}), path)
    assert records_of(shards_of(path, aside)) == [
        good,
        Record("elsewhere.jpg", b"1"),
    ]
    pq.write_table(pa.table({"a": ["p/a.jpg"], "b": [1.5]}), path)
    with pytest.raises(OptionError, match=r"name one with --column: a$"):
        shards_of(path, aside)
    assert records_of(shards_of(path, aside, column="a")) == [good]
    with pytest.raises(OptionError, match="--column is 'b'"):
        shards_of(path, aside, column="b")


def test_a_damaged_parquet_file_is_one_row(aside: Path) -> None:
    pq.write_table(pa.table({"jpg": [b"1"]}), aside.parent / "0.parquet")
    (aside.parent / "1.parquet").write_bytes(b"PAR1 and no more")
    good, bad = records_of(shards_of(aside.parent / "*.parquet", aside))
    assert good.data == b"1"
    assert bad.path == str(aside.parent / "1.parquet")
    assert "is no readable Parquet file" in bad.error


def test_the_rows_of_a_damaged_page_of_parquet_have_an_error_each(aside: Path) -> None:
    path = aside.parent / "a.parquet"
    images = [bytes([one]) * 3000 for one in range(40)]
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"image": images}), path, row_group_size=10, **plain)
    content = bytearray(path.read_bytes())
    end = content.index(images[30]) - 4  # of a page's header
    content[end - 12 : end] = b"\xff" * 12
    path.write_bytes(content)
    records = records_of(shards_of(path, aside))
    assert [one.data for one in records[:30]] == images[:30]
    assert [one.path for one in records[30:]] == [f"{path}#{row}" for row in range(30, 40)]
    assert all(one.error.startswith("unreadable: ") for one in records[30:])


def test_columns_of_parquet_may_be_dictionaries(aside: Path) -> None:
    path = aside.parent / "a.parquet"
    images = [b"one", b"two", None, b"one"]
    pq.write_table(pa.table({"image": pa.array(images).dictionary_encode()}), path)
    assert [one.data for one in records_of(shards_of(path, aside))] == [b"one", b"two", b"", b"one"]


def test_what_is_no_file_is_not_opened(aside: Path) -> None:
    os.mkfifo(aside.parent / "pipe.jpg")  # whose reader would wait for ever
    (aside.parent / "a.txt").write_text("pipe.jpg\n.\n")
    records = records_of(shards_of(aside.parent / "a.txt", aside))
    assert [one.error for one in records] == ["unreadable: it is no file"] * 2


def test_sources_may_be_urls(aside: Path) -> None:
    memory = fsspec.filesystem("memory")
    root = "/" + aside.parent.parent.name
    for name in ("b.jpg", "a.jpg", "deep/c.jpg", "deep/notes.txt", ".hidden.jpg"):
        memory.pipe_file(f"{root}/{name}", name.encode())
    memory.pipe_file(f"{root}/list.txt", f"a.jpg\nmemory:/{root}/deep/c.jpg\n".encode())
    url = f"memory:/{root}"
    found = {
        source: [one.data for one in records_of(shards_of(f"{url}{source}", aside))]
        for source in ("", "/*.jpg", "/list.txt", "/a.jpg")
    }
    assert found == {
        "": [b"a.jpg", b"b.jpg", b"deep/c.jpg"],
        "/*.jpg": [b"a.jpg", b"b.jpg"],
        "/list.txt": [b"a.jpg", b"deep/c.jpg"],
        "/a.jpg": [b"a.jpg"],
    }
    assert records_of(shards_of(f"{url}/a.jpg", aside))[0].path == f"{url}/a.jpg"


@pytest.mark.parametrize("source", ["", "*.jpg", "list.txt", "../tars"])
def test_a_column_of_what_is_no_parquet_is_refused(source: str, aside: Path) -> None:
    put(aside.parent / "in", "a.jpg", "list.txt")
    make_tar(aside.parent / "tars/a.tar", {})
    with pytest.raises(OptionError, match=r"^--column is 'nonsense', and .* is no Parquet file; "):
        shards_of(aside.parent / "in" / source, aside, column="nonsense")


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*.jpg"])
def test_a_source_that_is_where_captions_are_written_is_named(pattern: str, aside: Path) -> None:
    put(aside, "a.jpg")
    with pytest.raises(OptionError, match=r" is where --out writes, .*; choose another --out$"):
        shards_of(f"{aside}{pattern}", aside)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("nothing", DataError, "nothing: there is no such file or folder; check the path"),
        ("*.gif", DataError, "holds no photographs, tar or Parquet files"),
        ("", OptionError, "holds photographs and tar; give a pattern for one kind"),
        ("no.txt", DataError, "no.txt: there is no such file; check the path"),
        ("foo://x", OptionError, "Protocol not known: foo"),
    ],
)
def test_bad_sources_are_named(
    aside: Path, source: str, error: type[CaptionerError], words: str
) -> None:
    put(aside.parent, "a.jpg")
    make_tar(aside.parent / "a.tar", {})
    with pytest.raises(error) as found:
        shards_of(source if "://" in source else aside.parent / source, aside)
    assert words in str(found.value)
    assert "\n" not in str(found.value)
