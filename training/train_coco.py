"""Train a captioner on COCO, on any data set in Karpathy's form, or on the built-in sample.

python training/train_coco.py --p 0.4
python training/train_coco.py --p 0.4 --data DATA --encoder mobilenetv2_100
python training/train_coco.py --resume runs/NAME
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import sys
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioner.allocator import keep_freed_memory
from captioner.checkpoint import Checkpoint, load_checkpoint
from captioner.data.karpathy import CaptionDataset
from captioner.data.open_dataset import open_dataset
from captioner.devices import choose_device
from captioner.errors import CaptionerError
from training.arguments import Arguments, parse_arguments
from training.assembly import assemble
from training.config import TrainingConfig
from training.recipes import with_recipe
from training.run_folder import RunFolder
from training.start_from import with_model_of
from training.trainer import Outcome, Trainer

_BAD_INPUT, _INTERRUPTED = 2, 130  # exit statuses


def main(words: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    keep_freed_memory()
    try:
        return train(parse_arguments(words))
    except CaptionerError as problem:
        print(f"train_coco.py: {problem}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print("train_coco.py: interrupted before the first step", file=sys.stderr)
        return _INTERRUPTED


def train(arguments: Arguments) -> int:
    """Begin or resume a run, and report how it ended."""
    if arguments.resume is not None:
        folder = RunFolder.existing(arguments.resume)
        config = TrainingConfig.from_json({**folder.read_config(), **arguments.given})
        dataset = _open(config)
    else:
        folder, config, dataset = _new_run(arguments)
    choose_device(config.device)
    is_resumed = folder.last.exists()
    with folder.locked(), ExitStack() as closed_at_end:
        say(f"run: {folder.path}" + (" (resumed)" if arguments.resume else ""))
        say(_listed(config))
        checkpoint = _first_weights(config, folder.last if is_resumed else None)
        parts = closed_at_end.enter_context(
            closing(assemble(config, dataset, checkpoint, folder, say))
        )
        folder.write_config(config, {"facts": parts.facts, "command": sys.argv})
        trainer = Trainer(parts, folder, say)
        if is_resumed:
            trainer.resume()
            say(f"going on after step {trainer.standing.step:,}")
        elif arguments.resume:
            say("nothing was saved yet: beginning anew")
        return _report(trainer.run(), trainer, folder, dataset)


def say(line: str) -> None:
    print(line, flush=True)


def _new_run(arguments: Arguments) -> tuple[RunFolder, TrainingConfig, CaptionDataset]:
    if arguments.out is not None:
        RunFolder.new(arguments.out, "")  # refused before any data is read
    given = arguments.given
    if "start_from" in given:
        given = with_model_of(load_checkpoint(Path(given["start_from"])), given)
    dataset = _open(TrainingConfig(**_about_data(given)))
    config = TrainingConfig(**with_recipe(given, dataset.name))
    # The run must find the same data again, from any folder and whatever else appears.
    if config.data not in (None, "shapes") or dataset.name != "shapes":
        config = replace(
            config, data=str(dataset.json_path.resolve()), images=str(dataset.images_dir.resolve())
        )
    else:
        config = replace(config, data="shapes")
    name = f"{dataset.name}-{config.decoder}-p{config.p:g}"
    return RunFolder.new(arguments.out, name), config, dataset


def _first_weights(config: TrainingConfig, last: Path | None) -> Checkpoint | None:
    """Return what the run goes on from: itself, another run's checkpoint, or nothing."""
    if last is not None:
        return load_checkpoint(last)
    return load_checkpoint(Path(config.start_from)) if config.start_from else None


def _about_data(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("data", "images", "restval") if name in given}


def _open(config: TrainingConfig) -> CaptionDataset:
    images = Path(config.images) if config.images else None
    return open_dataset(config.data, images=images, restval=config.restval, announce=say)


def _listed(config: TrainingConfig) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in config.to_json().items())
    return textwrap.fill(
        "settings: " + settings, 100, subsequent_indent="  ", break_on_hyphens=False
    )


def _report(outcome: Outcome, trainer: Trainer, folder: RunFolder, dataset: CaptionDataset) -> int:
    standing = trainer.standing
    if outcome is Outcome.INTERRUPTED:
        say(f"stopped after step {standing.step:,}, all of it saved; go on with:")
        say(f"  python training/train_coco.py --resume {folder.path}")
        return _INTERRUPTED
    say(f"training is over: {outcome.value}")
    say(f"best validation, after step {standing.best_step:,}:")
    for metric, score in standing.best_scores.items():
        say(f"  {metric:<14}{score:8.4f}")
    say(f"everything lies in {folder.path}: best/ and last/ (checkpoints), metrics.jsonl,")
    say("  curves.png, captions_val.json, samples.png, events/ (TensorBoard), config.json")
    split = "test" if dataset.counts().get("test") else "val"
    say("next:")
    say(f"  python training/evaluate_coco.py --checkpoint {folder.best} --split {split}")
    say(f"  captioner caption PHOTO --checkpoint {folder.best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
