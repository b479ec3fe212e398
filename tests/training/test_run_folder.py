"""A run's folder is not overwritten, not shared, and its log is cut to what is resumed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from captioner.errors import OptionError, StorageError, TrainingError
from training import run_folder
from training.config import TrainingConfig
from training.run_folder import MetricsLog, RunFolder, origin, read_metrics


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"--out .* is not empty; give a folder that is new"):
        RunFolder.new(tmp_path, "x")


def test_a_run_is_refused_with_the_way_to_go_on(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(TrainingConfig(), {})
    with pytest.raises(OptionError, match=f"go on with it by --resume {tmp_path}"):
        RunFolder.new(tmp_path, "x")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(OptionError, match="is a file"):
        RunFolder.new(tmp_path / "f", "x")


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with (
        pytest.raises(StorageError, match="give another --out"),
        RunFolder(tmp_path / "f" / "run").locked(),
    ):
        pass


def test_default_name_tells_runs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder.new(None, "shapes-soft_attention-p0.4")
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("shapes-soft_attention-p0.4-")
    assert not run.path.exists()


def test_configuration_comes_back(tmp_path: Path) -> None:
    config = TrainingConfig.from_json({"p": 0.25, "seed": 7})
    RunFolder(tmp_path).write_config(config, {"facts": {"vocabulary_size": 12}})
    assert TrainingConfig.from_json(RunFolder(tmp_path).read_description()["config"]) == config


def test_a_run_is_found_by_itself_or_by_its_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_config(TrainingConfig(), {})
    run.last.mkdir()
    assert RunFolder.existing(run.path).path == run.path
    assert RunFolder.existing(run.last).path == run.path
    with pytest.raises(TrainingError, match="no run to go on with"):
        RunFolder.existing(tmp_path / "elsewhere")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.write_config(TrainingConfig(), {})
        with pytest.raises(TrainingError, match="another process is training"), run.locked():
            pass
    with run.locked():
        pass


def test_a_run_that_came_to_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked():
        pass
    assert not (tmp_path / "run").exists()


def test_too_little_space_is_said_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"needs about 1,000,000,000 MB .* the disk has [\d,]+"):
        RunFolder(tmp_path).check_free_space(10**15)
    RunFolder(tmp_path).check_free_space(1)


def test_the_log_is_cut_to_what_the_checkpoint_knew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    log = MetricsLog(run, kept_bytes=0, step=0)
    log.write("train", 1, {"loss": 3.0})
    known = log.bytes_written
    log.write("train", 2, {"loss": 2.0})
    log.close()
    with open(run.metrics, "ab") as file:  # a killed process may leave half a line
        file.write(b'{"kind": "tr')
    log = MetricsLog(run, kept_bytes=known, step=1)
    log.write("train", 2, {"loss": 2.5})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(run)] == [(1, 3.0), (2, 2.5)]


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    os.symlink("/dev/full", run.metrics)
    log = MetricsLog(run, kept_bytes=0, step=0)
    with pytest.raises(StorageError, match="No space left on device; the checkpoints are whole"):
        log.write("train", 1, {"loss": 1.0})
    log.close()


def test_a_run_tells_by_what_code_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    for commit in ("first", "first", "second", "first"):
        monkeypatch.setattr(run_folder, "origin", lambda commit=commit: {"commit": commit})
        run.write_config(TrainingConfig(), {})
    assert run.read_description()["origins"] == [{"commit": "first"}, {"commit": "second"}]


def test_the_origin_is_the_commit_that_git_names() -> None:
    if shutil.which("git") is None or not Path(".git").exists():
        pytest.skip("this is no checkout with git")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = origin()["commit"].removesuffix("-dirty")
    assert len(commit) >= 7
    assert head.stdout.startswith(commit)


def test_without_git_the_origin_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert origin()["commit"] == "unknown"
