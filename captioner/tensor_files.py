"""Tensors and JSON values as files of a hashed folder: safetensors, which execute nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.errors import CheckpointError
from captioner.files import read_json, write_json
from captioner.hashed_folder import verified


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
