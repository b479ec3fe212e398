"""Writer of Karpathy's form: one JSON, from which training finds the photographs again."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioner.data.karpathy import CaptionDataset, read_karpathy
from captioner.files import write_atomically


def json_path_in(out: Path, name: str) -> Path:
    """Return `out` where it is a JSON, else the path of `dataset_NAME.json` in this folder."""
    return out if out.suffix == ".json" else out / f"dataset_{name}.json"


def write_karpathy(
    out: Path, name: str, entries: Sequence[Mapping[str, Any]], images_dir: Path
) -> CaptionDataset:
    """Write the entries of images as one data set, and return it as it is read.

    The names of the entries count from `images_dir`, which the file names relative to itself.

    Raises:
        StorageError: the file cannot be written.
    """
    content: dict[str, Any] = {"dataset": name.lower(), "images": entries}
    if images_dir.resolve() != out.parent.resolve():
        content["images_dir"] = os.path.relpath(images_dir.resolve(), out.parent.resolve())
    text = json.dumps(content, ensure_ascii=False)
    write_atomically(out, text.encode("utf-8", "backslashreplace"))  # JSON's own escapes
    return read_karpathy(out)
