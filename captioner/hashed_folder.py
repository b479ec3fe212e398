"""A folder of safetensors and JSON that knows its own contents.

It appears whole or not at all, and `hashes.json` lists the SHA-256 of every file in it, so that a
truncated or altered one is named before anything is loaded. Loading executes nothing that the
folder holds. Checkpoints, of captioners and of benchmarks, are such folders.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.errors import CheckpointError
from captioner.files import file_hash, folder_written_aside, read_json, recover_folder, write_json

HASHES = "hashes.json"


@contextmanager
def hashed_folder_written_aside(target: Path) -> Iterator[Path]:
    """Yield an empty folder that, with its list of hashes, takes the place of `target`.

    Raises:
        StorageError: the disk is full or not writable; what was in `target` is untouched.
    """
    with folder_written_aside(target) as aside:
        yield aside
        hashes = {path.name: file_hash(path) for path in sorted(aside.iterdir())}
        write_json(aside / HASHES, hashes)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, as_float32: bool = False) -> None:
    """Write tensors as safetensors takes them: on the CPU, dense, none sharing memory."""
    ready: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        to_single = as_float32 and tensor.is_floating_point()
        ready[name] = tensor.detach().to("cpu", torch.float32 if to_single else None).contiguous()
        if ready[name].data_ptr() in places:
            ready[name] = ready[name].clone()
        places.add(ready[name].data_ptr())
    path.touch()
    mode = path.stat().st_mode
    save_file(ready, path)
    path.chmod(mode)  # the library writes for its own user alone


def write_extras(
    folder: Path,
    json_values: Mapping[str, Any] | None,
    tensors: Mapping[str, Mapping[str, Tensor]] | None,
) -> None:
    """Write each extra as a file of its own, which `read_extra` returns under the same name."""

    def free(path: Path) -> Path:
        assert path.parent == folder
        assert not path.exists(), f"{path.name} is a part of the checkpoint itself"
        return path

    for name, value in (json_values or {}).items():
        write_json(free(folder / f"{name}.json"), value)
    for name, members in (tensors or {}).items():
        write_tensors(free(folder / f"{name}.safetensors"), members)


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


def read_extra(folder: Path, hashes: Mapping[str, str], name: str) -> Any:
    """Return the JSON value or the dictionary of tensors that was written as the extra `name`.

    Raises:
        CheckpointError: there is no such extra, or its file is missing, truncated or altered.
    """
    for suffix in (".json", ".safetensors"):
        if name + suffix in hashes:
            path = verified(folder, hashes, name + suffix)
            if suffix == ".json":
                return read_json(path, f"the checkpoint's {name}", CheckpointError)
            return load_file(path)
    raise CheckpointError(
        f"checkpoint {folder} holds no {name}; training can go on only from a checkpoint that "
        "keeps its state, such as last/ of a run"
    )
