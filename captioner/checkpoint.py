"""A trained captioner as a folder of safetensors and JSON.

The folder appears whole or not at all, and every file's hash is kept in `hashes.json`, so that a
truncated or altered file is named before anything is loaded from it. Loading executes nothing
that the folder holds, needs no network and none of the training code.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.decoders import Decoder, DecoderConfig, build_decoder
from captioner.encoder.config import EncoderConfig
from captioner.encoder.model import ImageEncoder
from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import CaptionerError, CheckpointError
from captioner.files import file_hash, folder_written_aside, read_json, recover_folder, write_json
from captioner.vocabulary import Vocabulary

FORMAT_VERSION = 1
MODEL, VOCABULARY, HASHES = "model.json", "vocabulary.json", "hashes.json"
ENCODER, DECODER = "encoder.safetensors", "decoder.safetensors"
_OWN_FILES = (MODEL, VOCABULARY, ENCODER, DECODER)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint's folder holds, ready for use."""

    encoder: ImageEncoder
    decoder: Decoder
    vocabulary: Vocabulary
    summary: dict[str, Any]  # of the training that made it
    folder: Path
    hash: str  # SHA-256 over the hashes of all files: the name of exactly these contents


def save_checkpoint(
    folder: Path,
    *,
    encoder: ImageEncoder,
    decoder: Decoder,
    vocabulary: Vocabulary,
    summary: Mapping[str, Any],
    extra_json: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    link_encoder_from: Path | None = None,
) -> None:
    """Replace `folder` by a checkpoint of the given parts; weights are written in float32.

    Each extra is a file of its own, which `load_extra` returns under the same name.
    `link_encoder_from` names an earlier checkpoint whose file is shared if it holds the same
    encoder, which saves time and space where the encoder is frozen.

    Raises:
        StorageError: the disk is full or not writable; what was in `folder` is untouched.
    """
    assert len(vocabulary) == decoder.config.vocabulary_size
    assert encoder.feature_size == decoder.config.feature_size
    weights_hash = encoder.weights_hash()
    with folder_written_aside(folder) as aside:
        model = {
            "format_version": FORMAT_VERSION,
            "encoder": {"config": encoder.config.to_json(), "weights_hash": weights_hash},
            "preprocessing": encoder.preprocessing.to_json(),
            "decoder": {"name": decoder.name, "config": asdict(decoder.config)},
            "summary": dict(summary),
        }
        write_json(aside / MODEL, model)
        vocabulary.save(aside / VOCABULARY)
        if link_encoder_from is None or not _link_encoder(
            link_encoder_from, aside / ENCODER, weights_hash
        ):
            save_file(_for_file(encoder.network.state_dict(), as_float32=True), aside / ENCODER)
        save_file(_for_file(decoder.state_dict(), as_float32=True), aside / DECODER)
        for name, value in (extra_json or {}).items():
            write_json(_extra_path(aside, name, ".json"), value)
        for name, tensors in (extra_tensors or {}).items():
            save_file(_for_file(tensors), _extra_path(aside, name, ".safetensors"))
        hashes = {path.name: file_hash(path) for path in sorted(aside.iterdir())}
        write_json(aside / HASHES, hashes)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Return what `save_checkpoint` wrote, on `device` and in evaluation mode.

    Raises:
        CheckpointError: the folder is no checkpoint, was made by a later version, or one of its
            files, which the message names, is missing, truncated or altered.
    """
    folder = Path(folder)
    hashes = _read_hashes(folder)
    for name in hashes:
        _verify(folder, hashes, name)
    model = read_json(folder / MODEL, "the checkpoint's description", CheckpointError)
    version = model.get("format_version") if isinstance(model, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / MODEL} has format_version {version!r}, this program reads "
            f"{FORMAT_VERSION}; update the program, or take a checkpoint it made"
        )
    try:
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        encoder = ImageEncoder.restore(
            EncoderConfig.from_json(model["encoder"]["config"]),
            Preprocessing.from_json(model["preprocessing"]),
            load_file(folder / ENCODER),
        )
        decoder_config = DecoderConfig(**model["decoder"]["config"])
        decoder = build_decoder(model["decoder"]["name"], decoder_config)
        decoder.load_state_dict(load_file(folder / DECODER))
        summary = model["summary"]
    except (CaptionerError, KeyError, TypeError, RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())
        raise CheckpointError(
            f"the parts of checkpoint {folder} do not fit together "
            f"({type(problem).__name__}: {reason[:300]}); take another checkpoint"
        ) from problem
    _check_sizes(folder, encoder, decoder_config, vocabulary)
    return Checkpoint(
        encoder=encoder.to(device),
        decoder=decoder.to(device).eval(),
        vocabulary=vocabulary,
        summary=summary,
        folder=folder,
        hash=hashlib.sha256((folder / HASHES).read_bytes()).hexdigest(),
    )


def load_extra(folder: Path, name: str) -> Any:
    """Return the JSON value or the dictionary of tensors that was saved as the extra `name`.

    Raises:
        CheckpointError: there is no such extra, or its file is missing, truncated or altered.
    """
    folder = Path(folder)
    hashes = _read_hashes(folder)
    for suffix in (".json", ".safetensors"):
        if name + suffix in hashes:
            path = _verify(folder, hashes, name + suffix)
            if suffix == ".json":
                return read_json(path, f"the checkpoint's {name}", CheckpointError)
            return load_file(path)
    raise CheckpointError(
        f"checkpoint {folder} holds no {name}; training can go on only from a checkpoint that "
        "keeps its state, such as last/ of a run"
    )


def _extra_path(folder: Path, name: str, suffix: str) -> Path:
    path = folder / (name + suffix)
    assert path.parent == folder
    assert path.name not in (*_OWN_FILES, HASHES)
    return path


def _for_file(tensors: Mapping[str, Tensor], *, as_float32: bool = False) -> dict[str, Tensor]:
    """Return the tensors as safetensors takes them: on the CPU, dense, none sharing memory."""
    ready: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        to_single = as_float32 and tensor.is_floating_point()
        ready[name] = tensor.detach().to("cpu", torch.float32 if to_single else None).contiguous()
        if ready[name].data_ptr() in places:
            ready[name] = ready[name].clone()
        places.add(ready[name].data_ptr())
    return ready


def _link_encoder(source: Path, target: Path, weights_hash: str) -> bool:
    """Return whether `target` is now another name of the same encoder's file in `source`."""
    try:
        model = read_json(source / MODEL, "an earlier checkpoint", CheckpointError)
        if model["encoder"]["weights_hash"] != weights_hash:
            return False
        _verify(source, _read_hashes(source), ENCODER)
        os.link(source / ENCODER, target)
    except (CheckpointError, OSError, KeyError, TypeError):
        return False  # no whole checkpoint, or a file system without links
    return True


def _read_hashes(folder: Path) -> dict[str, str]:
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
    if not isinstance(hashes, dict) or not set(_OWN_FILES) <= hashes.keys():
        raise CheckpointError(
            f"{folder / HASHES} does not list {', '.join(_OWN_FILES)}; it was altered: restore it "
            "or take another checkpoint"
        )
    return hashes


def _verify(folder: Path, hashes: Mapping[str, str], name: str) -> Path:
    """Return the path of one file of the checkpoint, which holds what was written."""
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


def _check_sizes(
    folder: Path, encoder: ImageEncoder, decoder: DecoderConfig, vocabulary: Vocabulary
) -> None:
    if len(vocabulary) != decoder.vocabulary_size:
        raise CheckpointError(
            f"{folder / VOCABULARY} holds {len(vocabulary)} words and the decoder was made for "
            f"{decoder.vocabulary_size}; take the vocabulary it was trained with"
        )
    if encoder.feature_size != decoder.feature_size:
        raise CheckpointError(
            f"the encoder of {folder} gives {encoder.feature_size} features and the decoder was "
            f"made for {decoder.feature_size}; take another checkpoint"
        )
