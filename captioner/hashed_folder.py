"""A folder that knows its own contents.

It appears whole or not at all, and `hashes.json` lists the SHA-256 of every file in it, so that a
truncated or altered one is named before anything is loaded. Checkpoints, of captioners and of
benchmarks, are such folders. Importing this does not import torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioner.errors import CheckpointError
from captioner.files import (
    carry_over,
    file_hash,
    folder_written_aside,
    read_json,
    recover_folder,
    write_json,
)

HASHES = "hashes.json"


@contextmanager
def hashed_folder_written_aside(target: Path, *, keeps_other_files: bool = False) -> Iterator[Path]:
    """Yield an empty folder that, with its list of hashes, takes the place of `target`.

    With `keeps_other_files` what is in `target` and not in its list, such as notes, stays there.

    Raises:
        CheckpointError: `target` is a folder without a sound list, and other files are to stay.
        StorageError: the disk is full or not writable; what was in `target` is untouched.
    """
    with folder_written_aside(target) as aside:
        yield aside
        hashes = {path.name: file_hash(path) for path in sorted(aside.iterdir())}
        write_json(aside / HASHES, hashes)
        if keeps_other_files and target.exists() and any(target.iterdir()):
            carry_over(target, aside, all_but={HASHES, *read_hashes(target, ())})


def read_hashes(folder: Path, expected: Sequence[str]) -> dict[str, str]:
    """Return the hash of each file; the `expected` ones are among them.

    Raises:
        CheckpointError: the folder has no list of hashes, or one that was altered.
    """
    recover_folder(folder)
    if not (folder / HASHES).is_file():
        inside = [name for name in ("best", "last") if (folder / name / HASHES).is_file()]
        if inside:
            raise CheckpointError(
                f"{folder} is a run, not a checkpoint; take "
                f"{' or '.join(str(folder / name) for name in inside)}"
            )
        raise CheckpointError(
            f"{folder} is not a checkpoint, it has no {HASHES}; give a folder such as "
            "runs/NAME/best"
        )
    hashes = read_json(folder / HASHES, "the checkpoint's list of hashes", CheckpointError)
    if not isinstance(hashes, dict) or not set(expected) <= hashes.keys():
        raise CheckpointError(
            f"{folder / HASHES} does not list {', '.join(expected)}; it was altered: restore it "
            "or take another checkpoint"
        )
    return hashes


def verified(folder: Path, hashes: Mapping[str, str], name: str) -> Path:
    """Return the path of one file of the folder, which holds what was written.

    Raises:
        CheckpointError: it is missing, truncated or altered.
    """
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise CheckpointError(
            f"{path} is missing from the checkpoint; restore it or take another checkpoint"
        )
    try:
        found = file_hash(path)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}") from problem
    if found != hashes[name]:
        raise CheckpointError(
            f"{path} is truncated or was altered: its hash is not the one in {HASHES}; restore it "
            "or take another checkpoint"
        )
    return path
