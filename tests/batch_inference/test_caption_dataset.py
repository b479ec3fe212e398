"""`captioner caption-dataset`: the library's captions, each photograph once, whatever is killed."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import captioner
from captioner import extras
from captioner.batch_inference.job import begin_job
from captioner.batch_inference.results import part_name
from captioner.batch_inference.shard_captioner import ShardCaptioner, ShardSettings
from captioner.batch_inference.sources import Shard
from captioner.batch_inference.storage import OutputFolder
from captioner.checkpoint_folders import shipped_model
from captioner.cli import main
from captioner.errors import ToolError
from captioner.search_config import SearchConfig

PATIENCE = 200.0  # seconds; the machine may have better things to do
PICTURES = 5


@pytest.fixture(scope="module")
def library() -> captioner.Captioner:
    return captioner.load(threads=1)


@pytest.fixture(scope="module")
def shards(
    tmp_path_factory: pytest.TempPathFactory, library: captioner.Captioner
) -> Iterator[ShardCaptioner]:
    out = tmp_path_factory.mktemp("captions")
    settings = ShardSettings(
        model=str(shipped_model()),
        model_hash=library.hash,
        out=str(out),
        search=SearchConfig(),
        batch_size=2,
    )
    with ShardCaptioner(settings) as captioner:
        captioner.folder = out  # type: ignore[attr-defined]
        yield captioner


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small photographs, and of files that are none."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(PICTURES):
        image = Image.linear_gradient("L").rotate(40 * number).resize((40 + 9 * number, 60))
        Image.merge("RGB", [image, image.rotate(90, expand=True).resize(image.size), image]).save(
            folder / f"{number}.jpg"
        )
    turned = Image.open(folder / "4.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation
    turned.save(folder / "4.jpg", exif=exif)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "gone.jpg").symlink_to("/nowhere.jpg")
    Image.new("1", (20_001, 1)).save(folder / "wide.png")
    return folder


FAILURES = {"broken": "corrupt_image", "empty": "corrupt_image", "gone": "unreadable"}
FAILURES["wide"] = "image_too_large"


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def check_rows(
    rows: list[dict[str, Any]], album: Path, library: captioner.Captioner, **search: Any
) -> None:
    """Compare rows, by the names of their photographs, with what the library says of these."""
    by_name = {
        Path(row["path"].removeprefix("tar://").partition("::")[0]).stem: row for row in rows
    }
    assert len(by_name) == len(rows) == PICTURES + len(FAILURES)
    for name, kind in FAILURES.items():
        row = by_name.pop(name)
        assert row["error"].startswith(f"{kind}: ")
        assert {row[one] for one in ("caption", "log_prob", "confidence", "width")} == {None}
    for name, row in by_name.items():
        expected = library.caption([album / f"{name}.jpg"], **search)[0]
        assert (row["caption"], row["error"]) == (expected.text, None)
        assert row["log_prob"] == pytest.approx(expected.log_prob, abs=1e-4)
        assert row["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
        size = 40 + 9 * int(name), 60
        assert (row["width"], row["height"]) == (size[::-1] if name == "4" else size)
        assert row["model"] == library.hash


def test_every_kind_of_shard_has_the_captions_of_the_library(
    album: Path, library: captioner.Captioner, shards: ShardCaptioner, tmp_path: Path
) -> None:
    files = sorted(album.iterdir())
    listed, tar, table = (tmp_path / name for name in ("a.txt", "a.tar", "a.parquet"))
    listed.write_text("\n".join(map(str, files)))
    contents = {one.name: one.read_bytes() if one.exists() else None for one in files}
    with tarfile.open(tar, "w") as archive:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data or b"")
            archive.addfile(entry, io.BytesIO(data or b""))
    pq.write_table(pa.table({"path": list(contents), "image": list(contents.values())}), table)
    count = len(files)
    heard: list[int] = []
    for shard in (
        Shard(0, "list", str(listed), 0, count),
        Shard(1, "tar", str(tar)),
        Shard(2, "parquet", str(table), 0, count, "image"),
    ):
        summary = shards.caption(shard, heard.append)
        assert (summary.photographs, summary.failures.total()) == (count, len(FAILURES))
        rows = rows_of(shards.folder / part_name(shard.number))  # type: ignore[attr-defined]
        if shard.kind == "tar":  # a member has bytes, if only none
            gone = next(row for row in rows if "gone" in row["path"])
            assert gone["error"].startswith("corrupt_image: ")
            gone["error"] = "unreadable: as elsewhere"
        check_rows(rows, album, library)
    assert heard == [2, 2, 2, 2, 1] * 3


def test_a_link_in_a_tar_whose_name_is_no_text_is_a_row(
    shards: ShardCaptioner, tmp_path: Path
) -> None:
    (tmp_path / "link.jpg").symlink_to(os.fsdecode(b"caf\xe9.jpg"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "link.jpg", "link.jpg")
    shards.caption(Shard(9, "tar", str(tmp_path / "a.tar")))
    (row,) = rows_of(shards.folder / part_name(9))  # type: ignore[attr-defined]
    assert row["error"] == (
        r"unreadable: it is no file, but a link to caf\xe9.jpg; store the photograph itself"
    )


def written(out: Path) -> dict[str, tuple[int, int]]:
    """Return of each file of captions by name what changes when it is written anew."""
    found = {path.name: path.stat() for path in out.glob("part-*")}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in found.items()}


def run(*words: object) -> int:
    return main(["caption-dataset", *map(str, words)])


def test_the_command_captions_by_processes_and_counts_what_failed(
    album: Path,
    library: captioner.Captioner,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "captions"
    words = (album, "--out", out, "--workers", 2, "--shard-size", 4, "--max-length", 6)
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(f"9 photographs in {out} in ")
    assert sorted(printed.out.splitlines()[1:]) == [
        "failed: corrupt_image: 2",
        "failed: image_too_large: 1",
        "failed: unreadable: 1",
    ]
    assert "captioning: 9/9 photographs" in printed.err
    check_rows(rows_of(out), album, library, max_length=6)
    summary = json.loads((out / "_summary.json").read_text())
    assert (summary["photographs"], summary["photographs_now"]) == (9, 9)
    before = written(out)

    # Nothing is left to do; and another job is refused, whatever differs.
    assert run(*words, "--resume") == 1
    assert "9 photographs in" in capsys.readouterr().out
    assert written(out) == before
    assert run(*words) == 2
    assert "go on with it by --resume" in capsys.readouterr().err
    for other in (("--max-length", 7), ("--shard-size", 5), ("--beam-size", 2)):
        assert run(*words, "--resume", *other) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"error: {other[0]} is {other[1]}, and the job in {out} began wi")
    assert run(tmp_path, *words[1:], "--resume") == 2
    assert f'source is "{tmp_path}"' in capsys.readouterr().err

    # What is missing or damaged is done again, and nothing else.
    (out / part_name(1)).unlink()
    (out / part_name(2)).write_bytes((out / part_name(2)).read_bytes()[:-9])
    (out / "_part-000001.parquet.ffff.tmp").write_bytes(b"PAR1")
    assert run(*words, "--resume") == 1
    assert "9 photographs in" in capsys.readouterr().out
    check_rows(rows_of(out), album, library, max_length=6)
    assert written(out)[part_name(0)] == before[part_name(0)]
    assert not list(out.glob("*.tmp"))


def test_a_job_that_cannot_begin_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "captions"
    assert run(tmp_path / "nothing", "--out", out) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert run(tmp_path, "--out", out, "--checkpoint", tmp_path) == 2
    assert "is not a checkpoint" in capsys.readouterr().err
    assert run(tmp_path, "--out", out, "--exclude", "qwertz") == 2
    assert "qwertz" in capsys.readouterr().err
    assert run(tmp_path, "--out", out, "--engine", "local", "--ray-address", "auto") == 2
    assert "leave one of them out" in capsys.readouterr().err
    assert run(tmp_path / "nothing", "--out", out, "--device", "cuda") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: device is 'cuda', and engine onnxruntime runs on the CPU; ")
    assert "auto" not in message  # which this command does not take
    assert not out.exists()
    (tmp_path / "a.jpg").write_bytes(b"")
    (out / "_photographs.txt").mkdir(parents=True)  # which can neither be written nor removed
    assert run(tmp_path / "a.jpg", "--out", out) == 2
    assert "_photographs.txt could not be written: [Errno 21]" in capsys.readouterr().err
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert run(tmp_path, "--out", out, "--engine", "ray") == 2
    assert "pip install 'captioner[ray]'" in capsys.readouterr().err


def test_a_job_that_came_to_nothing_is_in_nobodys_way(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9 captions")

    def die(*_: object) -> Iterator[None]:
        raise ToolError("3 processes died")
        yield

    with monkeypatch.context() as patches:
        patches.setattr("captioner.batch_inference.local.caption_here", die)
        assert run(album, "--out", out) == 2
        assert "3 processes died" in capsys.readouterr().err
        assert not out.exists()

    # One that was killed before its first caption.
    out.mkdir()
    begin_job(OutputFolder(str(out)), str(album), model_hash="m", search=SearchConfig())
    words = (album / "0.jpg", "--out", out, "--workers", 1)
    assert run(*words) == 0
    assert capsys.readouterr().out.startswith(rf"1 photographs in {tmp_path}/caf\xe9 captions in ")
    before = written(out)
    with monkeypatch.context() as patches:
        patches.setattr("captioner.batch_inference.local.caption_here", die)
        assert run(*words, "--resume") == 2
    assert written(out) == before
    assert run(*words, "--resume") == 0


def test_two_jobs_do_not_write_into_one_folder(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "captions"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(album, "--out", out, "--resume") == 2
    finally:
        os.close(held)
    assert f"another process writes captions into {out}; wait" in capsys.readouterr().err
    assert not list(out.iterdir())


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from captioner.cli import main
sys.exit(main(["caption-dataset", "x", "--out", "y"]))
"""


def test_without_the_extra_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYARROW], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: captioner caption-dataset needs the extra `datasets` of captioner (pyarrow is not "
        "installed here); run: pip install 'captioner[datasets]'"
    ]


def test_a_killed_job_is_resumed_and_every_photograph_is_there_once(
    album: Path, library: captioner.Captioner, tmp_path: Path
) -> None:
    out = tmp_path / "captions"
    command = [sys.executable, "-m", "captioner", "caption-dataset", str(album), "--out", str(out)]
    command += ["--shard-size", "1", "--workers", "1", "--batch-size", "1"]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: processes_with_models(job))
    (model,) = processes_with_models(job)
    model.send_signal(signal.SIGINT)  # Ctrl-C reaches it while it starts, and is not for it
    until(lambda: len(list(out.glob("part-*"))) >= 1)
    assert processes_with_models(job) == [model]
    workers = psutil.Process(job.pid).children(recursive=True)
    model.kill()  # one that dies is replaced, and its shard is done again
    count = len(list(out.glob("part-*")))
    until(lambda: len(list(out.glob("part-*"))) >= count + 2)
    workers += psutil.Process(job.pid).children(recursive=True)
    job.send_signal(signal.SIGKILL)
    job.wait()
    until(lambda: not any(one.is_running() and one.status() != "zombie" for one in workers))
    before = written(out)
    assert 3 <= len(before) < PICTURES + len(FAILURES)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    check_rows(rows_of(out), album, library)
    assert before.items() <= written(out).items()


def processes_with_models(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(job.pid).children()
    return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


def until(happens: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
