"""Measurements of how the captioning of data sets scales, and the documents of them."""

from pathlib import Path
from typing import Any

from bench_turns import load_of_others, machine

from captioner.errors import DataError
from captioner.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
NAME = "scale"


def figures(results: Path) -> dict[str, Any]:
    """Return what was measured so far, by what it is of."""
    path = results / f"{NAME}.json"
    found: dict[str, Any] = read_json(path, "the figures", DataError) if path.exists() else {}
    return found


def keep(results: Path, of: str, command: str, found: dict[str, Any], load: float) -> None:
    """Write figures beside those of other measurements, with their command and the machine."""
    facts = {"command": command, "machine": machine(), "load_of_others": round(load, 3)}
    write_json(results / f"{NAME}.json", {**figures(results), of: {**facts, "found": found}})


__all__ = ["NAME", "RESULTS", "ROOT", "figures", "keep", "load_of_others"]
