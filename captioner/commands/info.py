"""`captioner info`: what a folder holds, and what would run it here."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captioner.commands.output import print_json
from captioner.errors import CheckpointError
from captioner.text import escaped, in_one_line

DESCRIPTION = """\
Say what a deployable folder or a checkpoint is: which engine runs it here, with how many threads,
in which precision; its sizes and hash, what it was trained on, and how it scored. The files are
compared with their hashes first.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "info",
        help="describe a checkpoint or a deployable folder",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="of a captioner, or of a run (its best)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    found = describe(arguments.folder)
    if arguments.json:
        print_json(found)
    else:
        for line in _lines(found):
            print(line)
    return 0


def describe(folder: Path) -> dict[str, Any]:
    """Return the facts of a captioner's folder.

    Raises:
        CheckpointError: it holds none, or a file of it is damaged; the message names the file.
    """
    from captioner.checkpoint_folders import MODEL, find_checkpoint
    from captioner.confidence import read_confidence_curve
    from captioner.engines import DEPLOYABLE, engine_for, load_engine
    from captioner.files import read_json
    from captioner.hashed_folder import HASHES

    folder = find_checkpoint(folder)
    loaded = load_engine(engine_for(folder), folder)
    curve = read_confidence_curve(folder)
    is_deployable = (folder / DEPLOYABLE).is_file()
    stated = folder / (DEPLOYABLE if is_deployable else MODEL)
    facts = read_json(stated, "the description of the captioner", CheckpointError)
    encoder, decoder = facts["encoder"], facts["decoder"]
    return {
        "folder": str(folder),
        "kind": "deployable folder" if is_deployable else "checkpoint",
        "hash": loaded.hash,
        **loaded.engine.describe(),
        "encoder": encoder if isinstance(encoder, str) else encoder["config"]["name"],
        "decoder": decoder if isinstance(decoder, str) else decoder["name"],
        "words": len(loaded.vocabulary),
        "preprocessing": loaded.engine.preprocessing.to_json(),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "hashes": read_json(folder / HASHES, "the list of hashes", CheckpointError),
        "checkpoint_hash": facts.get("checkpoint_hash", loaded.hash),
        "checks": facts.get("checks"),
        "choice": facts.get("choice"),
        "made_with": facts.get("made_with"),
        "confidence": None if curve is None else dict(curve.fitted),
        "summary": loaded.summary,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    """Return the facts for a reader, a line each.

    Raises:
        CheckpointError: facts that only people read are of other types than what was written.
    """
    from captioner.checkpoint_folders import DEPLOYABLE, MODEL
    from captioner.confidence import CONFIDENCE

    folder = Path(found["folder"])
    with _as_written(folder / (DEPLOYABLE if found["kind"] == "deployable folder" else MODEL)):
        rows = _described(found)
    with _as_written(folder / CONFIDENCE):
        rows |= _confidence(found["confidence"])
    width = max(map(len, rows))
    return [f"{name:{width}}  {escaped(value)}" for name, value in rows.items()]


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    """Say which file was altered where its facts are not those that captioner writes."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{path} does not say what captioner writes there ({type(problem).__name__}: "
            f"{in_one_line(problem)[:300]}); restore it, or export the checkpoint again"
        ) from problem


def _described(found: dict[str, Any]) -> dict[str, str]:
    per_part = ", ".join(
        f"{part} {precision} ({found['bytes'][part] / 1e6:.1f} MB)"
        for part, precision in found["precision"].items()
    )
    seen = found["preprocessing"]
    rows = {
        found["kind"]: found["folder"],
        "hash": found["hash"],
        "engine": f"{found['engine']} on {found['device']}, {found['threads']} threads",
        "precision": per_part,
        "encoder": f"{found['encoder']}, {seen['image_mode']} to {seen['image_size']} pixels",
        "decoder": f"{found['decoder']}, {found['words']:,} words",
        "size": f"{sum(found['files'].values()) / 1e6:.1f} MB in {len(found['files'])} files",
    }
    if "step" in found:
        rows["decoder's steps"] = f"{found['step']}"
    rows |= {name: str(value) for name, value in _trained(found["summary"]).items()}
    if found["checks"]:
        gap = found["checks"]["greatest_log_prob_difference"]
        rows["checked"] = f"log-probabilities within {gap:.1e} of the checkpoint's in float32"
    for part, verdict in ((found["choice"] or {}).get("cider") or {}).items():
        rows[part] = f"CIDEr {verdict['float32']:.4f} -> {verdict['this']:.4f}"
    if found["made_with"]:
        rows["made with"] = ", ".join(" ".join(one) for one in found["made_with"].items())
    return rows


def _confidence(fitted: dict[str, Any] | None) -> dict[str, str]:
    if not fitted:
        return {}
    error = fitted["left_out"]["calibration_error"]
    where = f"{fitted['split']} of {', '.join(fitted['data'])}"
    return {"confidence": f"fitted on {where}, calibration error {error:.3f}"}


def _trained(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a training's summary says, where it says it."""
    data = summary.get("data") or {}
    names = [one.get("name") for one in data.get("sets", [data])]
    rows: dict[str, Any] = {}
    if any(names):
        rows["trained on"] = ", ".join(str(name) for name in names if name)
    if "step" in summary:
        rows["training"] = f"step {summary['step']}, epoch {summary.get('epoch')}"
    scores = summary.get("scores_val") or {}
    figures = [f"{name} {one:.4f}" for name, one in scores.items() if isinstance(one, float)]
    if figures:
        rows["validation"] = ", ".join(figures)
    return rows
