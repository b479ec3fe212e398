"""Checkpoint folders: the lookup of checkpoints below those of runs, and the model in the box."""

from pathlib import Path

from captioner.errors import CheckpointError

MODEL = "model.json"  # a folder that holds it is a checkpoint
DEPLOYABLE = "deployable.json"  # a folder that holds it is one that `captioner export` made
SHIPPED = Path(__file__).with_name("model")
SHIPPED_NAME = "photographs"  # what the service calls it


def shipped_model() -> Path:
    """Return the folder of the model that comes with the package.

    Raises:
        CheckpointError: this installation has none.
    """
    if not holds_model(SHIPPED):
        raise CheckpointError(
            f"this installation has no model of its own in {SHIPPED}; name one with --checkpoint, "
            "or train one: python training/train_coco.py --p 0.4"
        )
    return SHIPPED


def find_checkpoint(folder: Path) -> Path:
    """Return `folder`, or its subfolder `best` where only that one holds a model."""
    return folder / "best" if not holds_model(folder) and holds_model(folder / "best") else folder


def holds_model(folder: Path) -> bool:
    """Return whether it looks like the folder of a checkpoint or of an exported captioner."""
    return any((folder / name).is_file() for name in (MODEL, DEPLOYABLE))


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
