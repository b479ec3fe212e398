"""The parts that a deployable captioner is made of, and captioners made of them for trials."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.checkpoint import Checkpoint
from captioner.deployable import DECODER, ENCODER, FORMAT_VERSION, Deployable
from captioner.engines import Engine, engine_class
from captioner.export.operators import OPSET


@dataclass(frozen=True, kw_only=True)
class Part:
    """An encoder or a decoder in one precision, for one engine, in a folder of its own."""

    of: str  # ENCODER or DECODER
    engine: str
    precision: str
    folder: Path

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "precision": self.precision,
            "bytes": self.bytes,
            "files": [path.name for path in self.files],
        }

    def __str__(self) -> str:
        return f"{self.of} by {self.engine} in {self.precision}"


def facts_of(checkpoint: Checkpoint, encoder: Part, decoder: Part) -> dict[str, Any]:
    """Return what `deployable.json` says of a captioner of these parts."""
    detector = checkpoint.decoder.attribute_detector
    return {
        "format_version": FORMAT_VERSION,
        "engine": encoder.engine,
        "parts": {ENCODER: encoder.to_json(), DECODER: decoder.to_json()},
        "preprocessing": checkpoint.encoder.preprocessing.to_json(),
        "grid": checkpoint.encoder.grid,
        "feature_size": checkpoint.encoder.feature_size,
        "vocabulary_size": len(checkpoint.vocabulary),
        "encoder": checkpoint.encoder.config.name,
        "decoder": checkpoint.decoder.name,
        "share_names": checkpoint.decoder.share_names,
        "attribute_detector": "" if detector is None else detector.name,
        "opset": OPSET,
        "checkpoint_hash": checkpoint.hash,
        "summary": checkpoint.summary,
    }


class Assembler:
    """Makes engines of parts, and folders for them below `work`."""

    def __init__(self, checkpoint: Checkpoint, work: Path, threads: int | None) -> None:
        self._checkpoint = checkpoint
        self._work = work
        self._threads = threads

    def new_folder(self, name: str) -> Path:
        folder = self._work / name
        folder.mkdir()
        return folder

    def engine(self, encoder: Part, decoder: Part) -> Engine:
        """Return an engine that runs the two parts."""
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=self._work))
        copy_parts(folder, encoder, decoder)  # onnx refuses links of any kind
        deployable = Deployable(
            folder=folder,
            preprocessing=self._checkpoint.encoder.preprocessing,
            vocabulary=self._checkpoint.vocabulary,
            facts=facts_of(self._checkpoint, encoder, decoder),
            hash="",
        )
        made: Any = engine_class(encoder.engine)
        return made(deployable, self._threads)


def copy_parts(target: Path, *parts: Part) -> None:
    for part in parts:
        for path in part.files:
            shutil.copy(path, target / path.name)
