"""Train a captioner on COCO, on any data sets in Karpathy's form, or on the built-in sample.

python training/train_coco.py --p 0.4
python training/train_coco.py --p 0.4 --data DATA --encoder mobilenetv2_100
python training/train_coco.py --resume runs/NAME
torchrun --nproc-per-node 8 -- training/train_coco.py --p 0.4 --data DATA
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from captioner.checkpoint import Checkpoint, load_checkpoint
from captioner.data.joint import JointDataset
from captioner.data.open_dataset import SAMPLE, open_datasets
from captioner.errors import CheckpointError, OptionError
from captioner.options import flag
from training.assembly import build_training_setup
from training.captioning import Captioning
from training.command import Configured, Program, say, train
from training.config import ENCODER_OPTIONS, TrainingConfig
from training.distributed import Ranks
from training.recipes import SEVERAL, check_with_any_recipe, with_recipe
from training.run import Outcome, Run
from training.run_folder import RunFolder


class TrainCoco(Program):
    name = "train_coco.py"
    description = (
        "Train a captioner. What is not given comes from the recipe of the data set "
        "(training/recipes.py); the effective values are printed and stored in the run's folder."
    )
    examples = """examples:
  python training/train_coco.py --p 0.4                        COCO in data/coco, else the sample
  python training/train_coco.py --p 0.4 --data my_photos/      a folder with a dataset*.json
  python training/train_coco.py --p 0.4 --data A B             two data sets as one
  python training/train_coco.py --resume runs/NAME             go on after a stop
  torchrun --nproc-per-node 8 -- training/train_coco.py --p 0.4
                                                               on 8 GPUs of this machine; without
                                                               the -- torchrun takes --p for its own

"""
    default_folder = "runs/DATA-DECODER-pP-TIME"
    config = TrainingConfig
    trains_together = True

    def __init__(self, called: str = "") -> None:
        self.called = called

    def configure(self, given: Mapping[str, Any]) -> Configured:
        check_with_any_recipe(given, self.config.from_json)  # before any data is read
        if "start_from" in given:
            given = with_model_of(load_checkpoint(Path(given["start_from"])), given)
            self.config.refuse_other_parts(given, map(flag, given))
        about_data = {name: given[name] for name in ("data", "images", "restval") if name in given}
        dataset = _open(TrainingConfig.from_json(about_data))
        recipe_name = SEVERAL if dataset.is_several else dataset.name
        config = self.config.from_json(with_recipe(given, recipe_name))
        data, images = _places(config, dataset)
        captions = tuple(str(Path(one).resolve()) for one in config.captions_without_photographs)
        config = replace(config, data=data, images=images, captions_without_photographs=captions)
        return Configured(config, dataset, f"{dataset.name}-{config.decoder}-p{config.p:g}")

    def configure_again(self, config: TrainingConfig) -> Configured:
        return Configured(config, _open(config), "")

    def work(self, configured: Configured, folder: RunFolder, ranks: Ranks) -> Captioning:
        config = configured.config
        first = folder.last if folder.last.exists() else config.start_from
        checkpoint = load_checkpoint(Path(first)) if first else None
        setup = build_training_setup(config, configured.data, checkpoint, folder, say, ranks)
        return Captioning(setup)

    def report(self, run: Run, outcome: Outcome) -> None:
        state, folder = run.state, run.folder
        say(f"training is over: {outcome.value}")
        say(f"best validation, after step {state.best_step:,}:")
        width = max(map(len, ("shapes_named", *state.best)))
        for metric, score in state.best.items():
            say(f"  {metric:<{width}}  {score:8.4f}")
        say(f"everything lies in {folder.path}: best/ and last/ (checkpoints), metrics.jsonl,")
        say("  curves.png, captions_val.json, samples.png, events/ (TensorBoard), config.json")
        assert isinstance(run.work, Captioning)
        split = "test" if run.work.dataset.counts().get("test") else "val"
        say("next:")
        say(f"  python training/evaluate_coco.py --checkpoint {folder.best} --split {split}")
        say(f"  captioner caption PHOTO --checkpoint {folder.best}")


def with_model_of(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, and the options that made the checkpoint's model.

    Raises:
        OptionError: an option of the model was given with another value.
        CheckpointError: the checkpoint does not say how it was trained.
    """
    trained = checkpoint.summary.get("training")
    if trained is None:
        raise CheckpointError(
            f"{checkpoint.folder} does not say how it was trained; start from one that "
            "train_coco.py wrote"
        )
    of_the_decoder = [item.name for item in fields(checkpoint.decoder.Options)]
    of_the_model = ("min_count", *ENCODER_OPTIONS.values(), "decoder", *of_the_decoder)
    model = {name: trained[name] for name in of_the_model if name in trained}
    for name, value in model.items():
        if name in given and given[name] != value:
            raise OptionError(
                f"{flag(name)} is {given[name]} and that of {checkpoint.folder} is {value}; a run "
                "that starts from a checkpoint keeps its model"
            )
    start_from = str(checkpoint.folder.resolve())
    return {**model, **given, "start_from": start_from}


def _places(
    config: TrainingConfig, dataset: JointDataset
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `--data` and `--images` that find the same again, from any folder, come what may."""
    data, images = [], []
    for named, part in zip(config.data or (None,), dataset.parts, strict=True):
        is_sample = named in (None, SAMPLE) and part.name == SAMPLE
        data.append(SAMPLE if is_sample else str(part.json_path.resolve()))
        images.append("" if is_sample else str(part.images_dir.resolve()))
    return tuple(data), tuple(images) if any(images) else ()


def _open(config: TrainingConfig) -> JointDataset:
    return open_datasets(config.data, images=config.images, restval=config.restval, announce=say)


def main(argv: Sequence[str] | None = None, program: str = "") -> int:
    """Train as the command line says, and return the exit status."""
    return train(TrainCoco(program), argv)


if __name__ == "__main__":
    sys.exit(main())
