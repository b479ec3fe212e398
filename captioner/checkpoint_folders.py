"""Checkpoint folders: the lookup of checkpoints below the folders of runs."""

from pathlib import Path

from captioner.errors import CheckpointError

DEPLOYABLE = "deployable.json"  # a folder that holds it is one that `captioner export` made


def find_checkpoint(folder: Path) -> Path:
    """Return `folder`, or its subfolder `best` where only that one holds a checkpoint."""
    is_run = not (folder / "model.json").exists() and (folder / "best" / "model.json").exists()
    return folder / "best" if is_run else folder


def newest_checkpoint(runs: Path) -> Path:
    """Return the best checkpoint of the run that was saved last.

    Raises:
        CheckpointError: there is none.
    """
    found = list(runs.glob("*/best/model.json"))
    if not found:
        raise CheckpointError(
            f"there is no checkpoint in {runs}/*/best; name one with --checkpoint, "
            "or train one: python training/train_coco.py --p 0.4"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent
