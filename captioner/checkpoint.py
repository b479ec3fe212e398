"""Checkpoint of a captioner: a hashed folder, loaded without a network or the training code."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from captioner.checkpoint_folders import DEPLOYABLE
from captioner.decoders import Decoder, build_decoder, decoder_class
from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import restore_encoder
from captioner.encoder.interface import Encoder
from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import CaptionerError, CheckpointError
from captioner.files import read_json, write_json
from captioner.hashed_folder import HASHES, hashed_folder_written_aside, read_hashes, verified
from captioner.tensor_files import write_extras, write_tensors
from captioner.text import in_one_line
from captioner.vocabulary import Vocabulary

FORMAT_VERSION = 1
MODEL, VOCABULARY = "model.json", "vocabulary.json"
ENCODER, DECODER = "encoder.safetensors", "decoder.safetensors"
# Older checkpoints of a decoder without attention hold these as well.
_ONCE_OF_EVERY_DECODER = ("attention_size", "feature_embedding_size", "detach_attention")
_OWN_FILES = (MODEL, VOCABULARY, ENCODER, DECODER)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint's folder holds, ready for use."""

    encoder: Encoder
    decoder: Decoder
    vocabulary: Vocabulary
    summary: dict[str, Any]  # of the training that made it
    folder: Path
    hash: str  # SHA-256 over the hashes of all files: the name of exactly these contents


def save_checkpoint(
    folder: Path,
    *,
    encoder: Encoder,
    decoder: Decoder,
    vocabulary: Vocabulary,
    summary: Mapping[str, Any],
    extra_json: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    link_encoder_from: Path | None = None,
) -> None:
    """Replace `folder` by a checkpoint of the given parts; weights are written in float32.

    Each extra is a file of its own, which `read_extra` returns under the same name.
    `link_encoder_from` names an earlier checkpoint whose file is shared if it holds the same
    encoder, which saves time and space where the encoder is frozen.

    Raises:
        StorageError: the disk is full or not writable; what was in `folder` is untouched.
    """
    assert len(vocabulary) == decoder.vocabulary_size
    assert encoder.feature_size == decoder.feature_size
    weights_hash = encoder.fingerprint()
    with hashed_folder_written_aside(folder) as aside:
        model = {
            "format_version": FORMAT_VERSION,
            "encoder": {"config": asdict(encoder.config), "weights_hash": weights_hash},
            "preprocessing": encoder.preprocessing.to_json(),
            "decoder": {
                "name": decoder.name,
                "config": {
                    "vocabulary_size": decoder.vocabulary_size,
                    "feature_size": decoder.feature_size,
                    **decoder.options.to_json(),
                },
            },
            "summary": dict(summary),
        }
        write_json(aside / MODEL, model)
        vocabulary.save(aside / VOCABULARY)
        if link_encoder_from is None or not _link_encoder(
            link_encoder_from, aside / ENCODER, weights_hash
        ):
            write_tensors(aside / ENCODER, encoder.network.state_dict(), as_float32=True)
        write_tensors(aside / DECODER, decoder.captioning_state(), as_float32=True)
        write_extras(aside, extra_json, extra_tensors)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Return what `save_checkpoint` wrote, on `device` and in evaluation mode.

    Raises:
        CheckpointError: the folder is no checkpoint, was made by a later version, or one of its
            files, which the message names, is missing, truncated or altered.
    """
    folder = Path(folder)
    if (folder / DEPLOYABLE).is_file():
        raise CheckpointError(
            f"{folder} is an exported model, not a checkpoint; take the checkpoint that it was "
            "made from"
        )
    hashes = read_hashes(folder, _OWN_FILES)
    for name in hashes:
        verified(folder, hashes, name)
    model = read_json(folder / MODEL, "the checkpoint's description", CheckpointError)
    version = model.get("format_version") if isinstance(model, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / MODEL} has format_version {version!r}, this program reads "
            f"{FORMAT_VERSION}; update the program, or take a checkpoint it made"
        )
    try:
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        encoder = restore_encoder(
            EncoderConfig(**model["encoder"]["config"]),
            Preprocessing.from_json(model["preprocessing"]),
            load_file(folder / ENCODER),
        )
        decoder = _build(**model["decoder"])
        decoder.load_state_dict(load_file(folder / DECODER))
        summary = model["summary"]
    except (CaptionerError, KeyError, TypeError, RuntimeError, SafetensorError) as problem:
        raise CheckpointError(
            f"the parts of checkpoint {folder} do not fit together "
            f"({type(problem).__name__}: {in_one_line(problem)[:300]}); take another checkpoint"
        ) from problem
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
    return Checkpoint(
        encoder=encoder.to(device),
        decoder=decoder.to(device).eval(),
        vocabulary=vocabulary,
        summary=summary,
        folder=folder,
        hash=hashlib.sha256((folder / HASHES).read_bytes()).hexdigest(),
    )


def _build(name: str, config: dict[str, Any]) -> Decoder:
    kind = decoder_class(name)
    sizes = {size: config.pop(size) for size in ("vocabulary_size", "feature_size")}
    for option in _ONCE_OF_EVERY_DECODER:
        if not hasattr(kind.Options, option):
            config.pop(option, None)
    return build_decoder(name, kind.Options.from_json(config), **sizes)


def _link_encoder(source: Path, target: Path, weights_hash: str) -> bool:
    """Return whether `target` is now another name of the same encoder's file in `source`."""
    try:
        model = read_json(source / MODEL, "an earlier checkpoint", CheckpointError)
        if model["encoder"]["weights_hash"] != weights_hash:
            return False
        verified(source, read_hashes(source, _OWN_FILES), ENCODER)
        os.link(source / ENCODER, target)
    except (CheckpointError, OSError, KeyError, TypeError):
        return False  # no whole checkpoint, or a file system without links
    return True
