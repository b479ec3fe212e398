"""Folders of runs of Table 3 as trainings leave them, written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

from training.captioners.plan import CaptionerPlan
from training.captioners.runs import CaptionerRun

REFERENCES = ["a dog runs on grass", "two men walk", "a red ball", "the cat sleeps", "a small boat"]


def write_run(
    plan: CaptionerPlan, run: CaptionerRun, ciders: Sequence[float], captions: Sequence[str] = ()
) -> None:
    """Write the log of a run with these scores of its epochs, and final captions if there are."""
    folder = plan.folder(run)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"format": 1, "config": {}, "origins": [{"commit": "abc1234"}]})
    )
    with open(folder / "metrics.jsonl", "w") as log:
        for epoch, cider in enumerate(ciders, 1):
            share = {"cell_share/5": 0.5 * epoch / len(ciders)}
            line = {"kind": "validation", "step": 9 * epoch, "epoch": float(epoch), "CIDEr": cider}
            print(json.dumps({**line, **share, "seconds": 60.0 * epoch}), file=log)
    if captions:
        write_captions(plan.captions(run), captions)
        plan.scores(run).write_text(json.dumps({"CIDEr": ciders[-1]}))


def write_captions(path: Path, captions: Sequence[str]) -> None:
    path.write_text(
        json.dumps(
            [
                {"image_id": number, "caption": caption, "references": [reference]}
                for number, (caption, reference) in enumerate(
                    zip(captions, REFERENCES, strict=True)
                )
            ]
        )
    )
