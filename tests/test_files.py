"""Files and folders written aside: whole after errors, a full disk, SIGKILL and a lost race."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captioner import files
from captioner.errors import DataError, StorageError
from captioner.files import (
    file_hash,
    folder_written_aside,
    open_atomically,
    read_json,
    recover_folder,
    write_atomically,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fill(target: Path, text: str) -> None:
    with folder_written_aside(target) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "deeper").mkdir()
        (folder / "deeper" / "b.txt").write_text(text)


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, function, fail)


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file.bin"]


def test_a_written_file_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    fill(tmp_path / "folder", "x")
    (tmp_path / "plain_folder").mkdir()
    for ours, plain in [("ours", "plain"), ("folder", "plain_folder")]:
        assert (tmp_path / ours).stat().st_mode == (tmp_path / plain).stat().st_mode


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt), open_atomically(path) as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")
    refuse(monkeypatch, function, errno.ENOSPC)
    with pytest.raises(StorageError) as caught:
        write_atomically(path, b"new")
    assert str(caught.value) == (
        f"{path} could not be written: No space left on device; what was there before is "
        "untouched; free some space and try again"
    )
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_write_that_does_not_fit_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(StorageError, match="No space left"), open_atomically(path) as file:
            os.dup2(full, file.fileno())
            file.write(b"x" * 100_000)
    finally:
        os.close(full)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_the_reader_of_a_pipe_gets_what_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"captions")
        assert os.read(reader, 100) == b"captions"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_a_device_stays_one(tmp_path: Path) -> None:
    device = tmp_path / "null"  # never the system's own, which root could replace
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        pytest.skip("devices cannot be made here")
    (tmp_path / "link").symlink_to(device)
    for path in (device, tmp_path / "link"):
        write_json(path, {"CIDEr": 1.0})
        assert device.is_char_device()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "null"]


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="this system has no /dev/stdout")
def test_standard_output_can_be_the_file() -> None:
    program = (
        "from pathlib import Path; from captioner.files import write_atomically\n"
        "write_atomically(Path('/dev/stdout'), b'captions')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"captions"


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"^{tmp_path} could not be written: Is a directory"):
        write_atomically(tmp_path, b"")


def test_a_file_in_the_place_of_a_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file is not a folder; choose another place"):
        write_atomically(tmp_path / "file" / "below", b"")


def test_an_unrelated_error_passes_through_unchanged(tmp_path: Path) -> None:
    def read_elsewhere() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/photo.jpg")

    with pytest.raises(PermissionError), folder_written_aside(tmp_path / "x"):
        read_elsewhere()
    assert names(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "best"
    fill(target, "old")
    (target / "only_in_old.txt").touch()
    fill(target, "new")
    assert names(target) == ["a.txt", "deeper"]
    assert (target / "deeper" / "b.txt").read_text() == "new"
    assert names(tmp_path) == ["best"]


def test_the_old_folder_stays_until_the_block_ends_and_after_an_error(tmp_path: Path) -> None:
    target = tmp_path / "best"
    fill(target, "old")
    with pytest.raises(ValueError, match="stop"), folder_written_aside(target) as folder:
        (folder / "a.txt").write_text("new")
        assert (target / "a.txt").read_text() == "old"
        raise ValueError("stop")
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["best"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: full (os error 28)")]
)
def test_a_full_disk_leaves_the_old_folder_and_says_so(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "best"
    fill(target, "old")
    with pytest.raises(StorageError, match=f"^{target} could not be written: No space left"):
        with folder_written_aside(target):
            raise error
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_a_full_disk_inside_the_folder_names_the_place_the_user_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(StorageError, match=f"^{tmp_path}/best/model.json could not be written"):
        with folder_written_aside(tmp_path / "best") as folder:
            write_json(folder / "model.json", {})


def test_a_full_disk_is_one_too_where_a_copy_from_elsewhere_met_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(StorageError, match=f"^{target} could not be written: No space left"):
        with folder_written_aside(target) as folder:
            raise OSError(errno.ENOSPC, "full", "/elsewhere/a.onnx", None, str(folder / "a.onnx"))
    with pytest.raises(OSError, match=r"full: ./elsewhere/a\.onnx. -> ./elsewhere/b\.onnx."):
        with folder_written_aside(target):
            raise OSError(errno.ENOSPC, "full", "/elsewhere/a.onnx", None, "/elsewhere/b.onnx")


def test_a_folder_reached_through_a_link_is_replaced_behind_the_link(tmp_path: Path) -> None:
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


def test_a_swap_interrupted_between_its_renames_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "best"
    fill(target, "old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from captioner import files\n"
        "files._exchange = lambda *_: False\n"
        "rename = Path.rename\n"
        "def die_after_first(self, other):\n"
        "    rename(self, other)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.rename = die_after_first\n"
        "with files.folder_written_aside(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a.txt').write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    recover_folder(target)
    assert (target / "a.txt").read_text() == "old"
    monkeypatch.setattr(files, "_LEFTOVER_SECONDS", -1.0)
    fill(target, "new")
    assert names(tmp_path) == ["best"]


def test_a_writer_who_comes_second_by_a_moment_replaces_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    rename = Path.rename

    def first_writer_is_quicker(source: Path, destination: Path) -> Path:
        if not destination.exists():
            destination.mkdir()
            (destination / "content").write_text("first")
        return rename(source, destination)

    monkeypatch.setattr(Path, "rename", first_writer_is_quicker)
    fill(target, "second")
    assert (target / "a.txt").read_text() == "second"
    assert names(target) == ["a.txt", "deeper"]
    assert names(tmp_path) == ["target"]


def test_recovery_leaves_a_whole_folder_alone(tmp_path: Path) -> None:
    target = tmp_path / "best"
    recover_folder(target)
    assert not target.exists()
    fill(target, "new")
    (tmp_path / ".best.previous").mkdir()
    recover_folder(target)
    assert (target / "a.txt").read_text() == "new"


def test_killed_at_any_moment_the_folder_is_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "best"
    fill(target, "0")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from captioner.files import folder_written_aside\n"
        "print('ready', flush=True)\n"
        "for number in range(1, 1_000_000):\n"
        "    with folder_written_aside(Path(sys.argv[1])) as folder:\n"
        "        (folder / 'a.txt').write_text(str(number))\n"
        "        (folder / 'deeper').mkdir()\n"
        "        (folder / 'deeper' / 'b.txt').write_text(str(number))\n"
    )
    for attempt in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        with child.stdout:
            child.stdout.readline()
            time.sleep(0.02 + 0.007 * attempt)
            child.kill()
        child.wait()
        recover_folder(target)
        assert (target / "a.txt").read_text() == (target / "deeper" / "b.txt").read_text()


def test_what_another_process_is_writing_is_not_cleaned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LEFTOVER_SECONDS", -1.0)
    target = tmp_path / "best"
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from captioner.files import folder_written_aside\n"
        "with folder_written_aside(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a.txt').write_text('theirs')\n"
        "    print('writing', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        fill(target, "ours")
        child.communicate(b"\n", timeout=60)
        assert child.returncode == 0
    assert (target / "a.txt").read_text() == "theirs"
    assert names(tmp_path) == ["best"]


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"caption": "ein Hund läuft", "scores": [0.1, 2]}
    write_json(path, value)
    assert read_json(path, "the scores", DataError) == value
    assert path.read_text(encoding="utf-8").endswith("\n}\n")
    assert "läuft" in path.read_text(encoding="utf-8")


def test_json_cannot_hold_a_number_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "value.json", float("nan"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe\xfa", b"", b"[" * 100_000])
def test_malformed_json_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path, "the vocabulary", DataError)
    message = str(caught.value)
    assert message.startswith(f"the vocabulary is not valid JSON: {path}: ")
    assert "\n" not in message


def test_missing_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(DataError, match=f"^the vocabulary not found: there is no file {path}"):
        read_json(path, "the vocabulary", DataError)
    with pytest.raises(DataError, match=f"cannot be read: {tmp_path}: Is a directory"):
        read_json(tmp_path, "the vocabulary", DataError)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # the one-block message of FIPS 180
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(path) == expected


def test_half_a_character_is_written_as_json_escapes_it(tmp_path: Path) -> None:
    value = {"caf\udce9.jpg": ["half \ud83d", "grün 😀"]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "it", DataError) == value
    assert "grün 😀" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_an_error_is_one_line_whatever_its_names_hold() -> None:
    problem = DataError("a\nb\t\x1b[31m\u202e\u2028 caf\udce9 \ud83d grün\u202f😀")
    assert str(problem) == r"a\nb\t\x1b[31m\u202e\u2028 caf\xe9 \ud83d grün" + "\u202f😀"
