"""Weights of an encoder: from a file, or from the hub that timm downloads from.

Reading a file executes nothing in it. Weights that do not fit the network are refused in one line
that counts the differences. A missing network is noticed within seconds.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.errors import EncoderError
from captioner.text import in_one_line

CONNECT_SECONDS = 5.0
WRAPPERS = ("state_dict", "model")  # keys under which training scripts put the weights
HUB_FILENAMES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for, in its order


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the weights of a .safetensors file or of a .pth or .pt file, in float32.

    A dictionary around the weights and the prefix of data-parallel training are taken off.

    Raises:
        EncoderError: the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise EncoderError(
            f"encoder weights {path}: there is no such file; --encoder-weights takes a "
            ".safetensors or .pth file, pretrained or none"
        )
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, ValueError) as problem:
        reason = in_one_line(problem)
        raise EncoderError(f"encoder weights {path} cannot be read: {reason}") from problem
    except Exception as problem:  # torch.load raises nearly anything for files it did not write
        raise EncoderError(
            f"encoder weights {path} are no weights saved by torch.save, or hold more than "
            f"weights ({in_one_line(problem)[:120]}); save the state_dict alone, best as "
            ".safetensors"
        ) from problem
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise EncoderError(
            f"encoder weights {path} hold something else than named tensors; save the state_dict"
        )
    return {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in content.items()
    }


def load_state(
    network: nn.Module, state: Mapping[str, Tensor], unused: Iterable[str], source: str
) -> None:
    """Copy `state` into the network, which may do without the tensors or modules in `unused`.

    Raises:
        EncoderError: a tensor is missing, unexpected or of another shape; names the first of each.
    """
    ours = network.state_dict()
    droppable = set(unused)
    theirs = {
        name: value
        for name, value in state.items()
        if name in ours or not droppable & {name, name.rpartition(".")[0]}
    }
    # A count of batches that only torch's cumulative average reads; older files are without.
    missing = [n for n in ours if n not in theirs and not n.endswith("num_batches_tracked")]
    differences = {
        "missing": missing,
        "unexpected": [name for name in theirs if name not in ours],
        "of another shape": [
            f"{name} {list(theirs[name].shape)} instead of {list(value.shape)}"
            for name, value in ours.items()
            if name in theirs and theirs[name].shape != value.shape
        ],
    }
    if any(differences.values()):
        found = "; ".join(
            f"{len(names)} tensors {kind} (first: {names[0]})"
            for kind, names in differences.items()
            if names
        )
        raise EncoderError(
            f"{source} does not fit the encoder: {found}; choose the --encoder the file was made "
            "with"
        )
    network.load_state_dict(theirs, strict=False)


def state_hash(network: nn.Module) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of all weights and statistics."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def download_options(name: str, stated: Any) -> dict[str, Any]:
    """Return what makes timm load pretrained weights, from its cache where they are there.

    `stated` is timm's description of the weights.

    Raises:
        EncoderError: there are no such weights, or they are not in the cache and nothing answers.
    """
    from huggingface_hub import constants

    if stated is None or not stated.has_weights:
        raise EncoderError(
            f"timm has no pretrained weights of {name}; give --encoder-weights FILE or none"
        )
    cached = stated.hf_hub_id and cached_on_disk(stated.hf_hub_id, stated.hf_hub_filename)
    if not cached:
        address = constants.ENDPOINT if stated.hf_hub_id else stated.url
        check_reachable(address, f"the pretrained weights of {name}")
    elif not stated.custom_load:
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(cached)}}
    return {"pretrained": True}


def cached_on_disk(repository: str, filename: str | None) -> Path | None:
    """Return the file of weights that an earlier download left, None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    for name in (filename,) if filename else HUB_FILENAMES:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def check_reachable(address: str, what: str) -> None:
    """Return if a server answers at all, so that what follows cannot wait for minutes.

    Raises:
        EncoderError: nothing answers; says how to go on without a network.
    """
    try:
        with urlopen(Request(address, method="HEAD"), timeout=CONNECT_SECONDS):
            pass
    except HTTPError:
        pass  # an answer, whatever it says
    except (OSError, ValueError) as problem:
        reason = in_one_line(getattr(problem, "reason", problem))
        raise EncoderError(
            f"{what} must be downloaded and there is no network ({reason}); give "
            "--encoder-weights FILE with weights at hand, or --encoder-weights none"
        ) from problem
