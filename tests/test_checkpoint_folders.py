"""Which folder of a run is taken for its checkpoint, and which run is the newest."""

import os
from pathlib import Path

import pytest

from captioner import checkpoint_folders
from captioner.checkpoint_folders import find_checkpoint, newest_checkpoint, shipped_model
from captioner.errors import CheckpointError


def checkpoint(folder: Path, modified: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    os.utime(folder / "model.json", (modified, modified))
    return folder


def test_the_best_of_a_run_is_its_checkpoint(tmp_path: Path) -> None:
    best = checkpoint(tmp_path / "run" / "best", 1)
    assert find_checkpoint(tmp_path / "run") == best
    assert find_checkpoint(best) == best
    assert find_checkpoint(tmp_path) == tmp_path


def test_an_exported_captioner_may_be_the_best_of_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "deployable.json").write_text("{}")
    assert find_checkpoint(tmp_path) == tmp_path / "best"
    (tmp_path / "deployable.json").write_text("{}")
    assert find_checkpoint(tmp_path) == tmp_path


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*--checkpoint"):
        newest_checkpoint(tmp_path)
    checkpoint(tmp_path / "a" / "best", 2)
    newest = checkpoint(tmp_path / "b" / "best", 3)
    checkpoint(tmp_path / "c" / "best", 1)
    assert newest_checkpoint(tmp_path) == newest


def test_the_model_in_the_box_is_a_checkpoint_or_a_deployable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_folders, "SHIPPED", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model of its own in .*--checkpoint"):
        shipped_model()
    for name in ("model.json", "deployable.json"):
        (tmp_path / name).write_text("{}")
        assert shipped_model() == tmp_path
        (tmp_path / name).unlink()
