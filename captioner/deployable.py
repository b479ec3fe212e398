"""A deployable captioner: a folder with its graphs, vocabulary and facts, which runs without torch.

`captioner export` writes it; the engines for graphs read it. `deployable.json` says how photographs
are prepared, which engine and precision each part was chosen for, what the graphs were checked
against, and of which checkpoint they were made.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.checkpoint_folders import MODEL
from captioner.encoder.preprocessing import Preprocessing
from captioner.engines import DEPLOYABLE, ENGINES
from captioner.errors import CaptionerError, CheckpointError
from captioner.files import read_json
from captioner.hashed_folder import HASHES, read_hashes, verified
from captioner.text import in_one_line
from captioner.vocabulary import Vocabulary

FORMAT_VERSION = 1
VOCABULARY = "vocabulary.json"
ENCODER, DECODER = "encoder", "decoder"  # the parts
_MOST = 1_000_000  # of any size


@dataclass(frozen=True, kw_only=True)
class Deployable:
    """What a deployable folder holds, its graphs aside."""

    folder: Path
    preprocessing: Preprocessing
    vocabulary: Vocabulary
    facts: dict[str, Any]  # all of deployable.json
    hash: str  # SHA-256 over the hashes of all files: the name of exactly these contents

    @property
    def grid(self) -> int:
        """Return how many positions lie along each side of the grid."""
        return int(self.facts["grid"])

    @property
    def summary(self) -> dict[str, Any]:
        """Return the summary of the training that made the checkpoint."""
        return dict(self.facts["summary"])

    def part(self, name: str) -> dict[str, Any]:
        """Return the facts of a part: its engine, its precision, its files and their bytes."""
        return dict(self.facts["parts"][name])

    def graph(self, name: str) -> Path:
        """Return the file of a graph, or the files that an engine has beside those."""
        return self.folder / name


def _wrong_facts(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts that are not what they must be, and what that is."""
    for name in ("grid", "feature_size", "vocabulary_size"):
        if type(facts.get(name)) is not int or not 1 <= facts[name] <= _MOST:
            yield name, f"it must be a whole number from 1 to {_MOST:,}"
    if facts.get("engine") not in list(ENGINES):
        yield "engine", f"and this program knows {', '.join(ENGINES)}"
    for name in ("preprocessing", "summary"):
        if not isinstance(facts.get(name), dict):
            yield name, "it must be an object"
    for name in ("encoder", "decoder"):
        if not isinstance(facts.get(name), str):
            yield name, "it must be a text"
    for name in ("checks", "choice", "made_with"):
        if not isinstance(facts.get(name), dict | None):
            yield name, "it must be an object"
    shares = facts.get("share_names", [])
    if not isinstance(shares, list) or not all(isinstance(one, str) for one in shares):
        yield "share_names", "it must be a list of texts"
    if not isinstance(facts.get("attribute_detector", ""), str):
        yield "attribute_detector", "it must be a text"
    parts = facts.get("parts")
    if not isinstance(parts, dict) or not all(
        isinstance(part := parts.get(name), dict)
        and isinstance(part.get("precision"), str)
        and type(part.get("bytes")) is int
        for name in (ENCODER, DECODER)
    ):
        yield "parts", f"it must give precision and bytes of {ENCODER} and {DECODER}"


def load_deployable(folder: Path) -> Deployable:
    """Return what `captioner export` wrote, after a look at the hash of every file.

    Raises:
        CheckpointError: the folder is none, was made by a later version, or one of its files,
            which the message names, is missing, truncated or altered.
    """
    if (folder / MODEL).is_file() and not (folder / DEPLOYABLE).is_file():
        raise CheckpointError(
            f"{folder} is a checkpoint, which engine torch runs; leave the engine out, or take the "
            f"folder that captioner export {folder} writes"
        )
    hashes = read_hashes(folder, (DEPLOYABLE, VOCABULARY))
    facts = read_json(
        verified(folder, hashes, DEPLOYABLE), "the description of the captioner", CheckpointError
    )
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / DEPLOYABLE} has format_version {version!r}, this program reads "
            f"{FORMAT_VERSION}; update the program, or export the checkpoint again"
        )
    for name in hashes:
        verified(folder, hashes, name)
    for name, problem in _wrong_facts(facts):
        raise CheckpointError(
            f"{folder / DEPLOYABLE} has {name} {facts.get(name)!r:.80}, {problem}; export the "
            "checkpoint again"
        )
    try:
        preprocessing = Preprocessing.from_json(facts["preprocessing"])
        if preprocessing.image_mode == "whole":
            raise CheckpointError("image_mode is 'whole', and graphs are made for one size")
        vocabulary = Vocabulary.load(folder / VOCABULARY)
        if len(vocabulary) != facts["vocabulary_size"]:
            raise CheckpointError(
                f"{folder / VOCABULARY} holds {len(vocabulary)} words and the decoder was made "
                f"for {facts['vocabulary_size']}"
            )
        return Deployable(
            folder=folder,
            preprocessing=preprocessing,
            vocabulary=vocabulary,
            facts=facts,
            hash=hashlib.sha256((folder / HASHES).read_bytes()).hexdigest(),
        )
    except (CaptionerError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"the parts of {folder} do not fit together ({type(problem).__name__}: "
            f"{in_one_line(problem)[:300]}); export the checkpoint again"
        ) from problem
