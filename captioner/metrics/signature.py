"""Signature of scores: what was scored and how, in one line that can be compared with another's.

What a file of captions cannot say of itself, such as the beam and the model, stands in a file
beside it, `NAME.signature.json`. It names the hash of the captions, so it counts for these alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.errors import DataError
from captioner.files import file_hash, read_json, write_json

_CAPTIONS = "captions_sha256"
_HASH_DIGITS = 12


def write_signature(captions: Path, facts: Mapping[str, Any]) -> None:
    """Write beside a file of captions how they were made; a pipe or a device has nothing beside it.

    Raises:
        StorageError: it cannot be written.
    """
    if not captions.is_file():
        return
    write_json(_beside(captions), {_CAPTIONS: file_hash(captions), **facts})


def read_signature(captions: Path) -> dict[str, Any]:
    """Return what `write_signature` wrote for exactly these captions, else nothing.

    Raises:
        DataError: the file beside the captions is damaged.
    """
    path = _beside(captions)
    if not path.is_file():
        return {}
    facts = read_json(path, "signature of the captions", DataError)
    if not isinstance(facts, dict) or facts.pop(_CAPTIONS, None) != file_hash(captions):
        return {}
    return facts


def signature_line(signature: Mapping[str, Any]) -> str:
    """Return the signature as one line; what is not known is left out."""

    def text(name: str, form: str) -> str:
        return form.format(signature[name]) if signature.get(name) is not None else ""

    model = str(signature.get("checkpoint_hash") or "")[:_HASH_DIGITS]
    parts = (
        text("split", "split {}"),
        text("images", "{:,} images"),
        text("references", "{:,} references"),
        text("tokenizer", "tokeniser {}"),
        text("end_token", "end token {}"),
        text("cider_idf", "idf of the {}"),
        text("beam_size", "beam {}"),
        text("length_power", "length power {:g}"),
        text("max_length", "at most {} words"),
        "words repeated" if signature.get("repeat_words") else "",
        text("attribute_threshold", "attributes from {:g}"),
        f"model {model}" if model else "",
        text("engine", "engine {}"),
        text("meteor", "{}"),
        text("pycocoevalcap", "pycocoevalcap {}"),
        text("java", "{}"),
        text("captioner", "captioner {}"),
        text("bootstrap", "{:,} bootstrap samples"),
        text("seed", "seed {}"),
    )
    return "signature: " + " | ".join(part for part in parts if part)


def _beside(captions: Path) -> Path:
    return captions.with_name(f"{captions.stem}.signature.json")
