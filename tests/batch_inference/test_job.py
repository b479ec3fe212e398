"""A job that goes on does so with the photographs that it began with, or not at all."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from captioner.batch_inference.job import MANIFEST, PHOTOGRAPHS, SHARDS, Job, begin_job
from captioner.batch_inference.reading import read_shard
from captioner.batch_inference.storage import OutputFolder
from captioner.errors import DataError
from captioner.search_config import SearchConfig

NAMES = [f"{number:02d}.jpg" for number in range(40)]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(name.encode("ascii"))
    return folder


def begin(source: Path, *, resume: bool = False) -> Job:
    out = OutputFolder(str(source.parent / "captions"))
    with out.locked():
        return begin_job(out, str(source), model_hash="m", search=SearchConfig(), resume=resume)


def contents(job: Job) -> list[str]:
    return [one.data.decode("ascii") for shard in job.remaining() for one in read_shard(shard)]


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_zeros(content: bytes) -> bytes:  # as some disks have it after a power failure
    return bytes(len(content))


@pytest.mark.parametrize("damage", [cut_short, with_zeros, lambda _: b""])
@pytest.mark.parametrize("name", [PHOTOGRAPHS, SHARDS])
def test_what_a_job_knows_of_its_source_is_checked(
    name: str, damage: Callable[[bytes], bytes], album: Path
) -> None:
    assert contents(begin(album)) == NAMES
    assert contents(begin(album, resume=True)) == NAMES
    file = album.parent / "captions" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=rf"/{name} is not as it was when the job .* began"):
        begin(album, resume=True)


@pytest.mark.parametrize(
    "edited", [["new.jpg", *NAMES], NAMES[1:], [NAMES[1], NAMES[0], *NAMES[2:]]]
)
def test_a_list_that_was_edited_since_is_refused(edited: list[str], album: Path) -> None:
    source = album.parent / "album.txt"
    lines = "\n".join(f"album/{name}" for name in NAMES)
    source.write_text(lines)
    assert contents(begin(source)) == NAMES
    source.write_text("\n".join(f"album/{name}" for name in edited))
    with pytest.raises(DataError, match=r"/album.txt is not as it was .* it was changed or damag"):
        begin(source, resume=True)
    source.write_text(lines)
    assert contents(begin(source, resume=True)) == NAMES


def test_lists_and_shards_are_on_the_disk_before_the_manifest(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[str] = []

    def note(out: OutputFolder, names: Iterable[str]) -> None:
        assert out.read(MANIFEST) is None
        brought.extend(names)

    monkeypatch.setattr(OutputFolder, "bring_to_disk", note)
    begin(album)
    assert sorted(brought) == [PHOTOGRAPHS, SHARDS]
