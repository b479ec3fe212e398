"""Score a checkpoint on a split of its data set, or of another one.

python training/evaluate_coco.py --checkpoint runs/NAME/best --split test
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from captioner.allocator import keep_freed_memory
from captioner.checkpoint_folders import newest_checkpoint
from captioner.data.joint import JointDataset
from captioner.data.karpathy import SPLITS, CaptionedImage
from captioner.data.open_dataset import SAMPLE, open_datasets
from captioner.encoder.joint_store import JointStore
from captioner.engines import ENGINES, LoadedEngine, load_engine
from captioner.errors import DataError
from captioner.files import refuse_to_overwrite, write_json
from captioner.flags import OneLineParser, add_flags, options_parser
from captioner.metrics import scores_table
from captioner.metrics.signature import write_signature
from captioner.options import AT_LEAST_ONE, Options, option
from captioner.program import run_program
from captioner.search_config import SearchConfig
from training.composition import option_of
from training.config import TrainingConfig
from training.feature_sources import ImageSource, LiveImages, StoredFeatures
from training.validation import SHAPES_NAMED, Validation, Validator, write_captions

_SEARCH_OPTIONS = (
    "beam_size",
    "length_power",
    "max_length",
    "repeat_words",
    "attribute_threshold",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    checkpoint: Path | None = option(
        None, "folder to score; default: the newest runs/*/best", metavar="RUN/best"
    )
    split: str = option("test", "images to score on", choices=SPLITS)
    data: tuple[str, ...] = option(
        (),
        "coco, shapes or a path, or several, scored together and each; default: what it was "
        "trained on",
        metavar="DATA",
    )
    images: tuple[str, ...] = option_of(TrainingConfig, "images")
    out: Path | None = option(None, "write the scores as JSON", metavar="FILE")
    captions_out: Path | None = option(None, "write the captions as JSON", metavar="FILE")
    feature_store: Path | None = option(None, "folder of the stored features")
    batch_size: int = option(50, "images at once", within=AT_LEAST_ONE)
    device: str = option_of(TrainingConfig, "device")
    engine: str | None = option(
        None, f"what runs the model: {', '.join(ENGINES)}; default: as the folder", metavar="NAME"
    )
    threads: int | None = option_of(TrainingConfig, "threads")
    workers: int = option_of(TrainingConfig, "workers")

    def contradictions(self) -> Iterable[str]:
        if self.out is not None and self.out == self.captions_out:
            yield f"--out and --captions-out are both {self.out}; give two names"


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says, and return the exit status."""
    keep_freed_memory()
    return run_program("evaluate_coco.py", lambda: _evaluate(argv))


def _evaluate(argv: Sequence[str] | None) -> None:
    given = vars(build_parser().parse_args(argv))
    search = SearchConfig(**{name: given.pop(name) for name in _SEARCH_OPTIONS if name in given})
    options = EvaluationOptions.from_json(given)
    checkpoint = options.checkpoint
    if checkpoint is None:
        checkpoint = newest_checkpoint(Path("runs"))
        print(f"using {checkpoint}")
        options = replace(options, checkpoint=checkpoint)
    model = load_engine(options.engine, checkpoint, options.device, options.threads)
    dataset = _dataset(options, model)
    for name, out in (("--out", options.out), ("--captions-out", options.captions_out)):
        if out is not None:
            refuse_to_overwrite(name, [out], chain(checkpoint.iterdir(), dataset.files))
    images_by_set = dataset.split_by_set(options.split)
    validation, scored = evaluate(options, search, model, images_by_set)
    facts = _signature(options, search, model)
    signature = {**facts, **validation.scores.signature}
    print(scores_table(replace(validation.scores, signature=signature)))
    if validation.shapes_named is not None:
        print(f"colour and kind of every shape named rightly: {validation.shapes_named:.1%}")
    if options.captions_out is not None:
        write_captions(options.captions_out, scored, validation.captions)
        write_signature(options.captions_out, facts)
    if options.out is not None:
        write_json(options.out, _to_json(validation, facts))


def build_parser() -> OneLineParser:
    """Return the parser of this script's command line."""
    parser = options_parser(
        EvaluationOptions,
        prog="evaluate_coco.py",
        description="Score a checkpoint's captions with BLEU, METEOR, ROUGE-L and CIDEr.",
    )
    add_flags(parser.add_argument_group("search"), SearchConfig, names=_SEARCH_OPTIONS)
    return parser


def evaluate(
    options: EvaluationOptions,
    search: SearchConfig,
    model: LoadedEngine,
    images_by_set: Sequence[Sequence[CaptionedImage]],
) -> tuple[Validation, Sequence[CaptionedImage]]:
    """Caption and score the images; also return those that have references."""
    images = [image for of_set in images_by_set for image in of_set]
    validator = Validator(images, model.vocabulary, search, batch_size=options.batch_size)
    with closing(validator), closing(_source(options, model, images_by_set)) as source:
        captions = validator.captions(model.engine, source, description=options.split)
        assert captions is not None, "nobody asked it to stop"
        return validator.score(captions), validator.images


def _source(
    options: EvaluationOptions,
    model: LoadedEngine,
    images_by_set: Sequence[Sequence[CaptionedImage]],
) -> ImageSource:
    engine, encoder = model.engine, model.engine.encoder
    is_fine_tuned = model.summary.get("training", {}).get("fine_tune_encoder", "none") != "none"
    if encoder is None or is_fine_tuned:
        # A fine-tuned encoder belongs to this model alone: storing its features would not pay.
        return LiveImages(
            [image for images in images_by_set for image in images],
            engine.preprocessing,
            engine.encode if encoder is None else encoder.forward_by_size,
            workers=options.workers,
            announce=print,
        )
    store = JointStore.open(
        options.feature_store,
        encoder,
        images_by_set,
        workers=options.workers,
        progress=True,
        announce=print,
    )
    return StoredFeatures(store, None, next(encoder.parameters()).device)


def _dataset(options: EvaluationOptions, model: LoadedEngine) -> JointDataset:
    """Return the data to score on, which have captioned images in the split."""
    data, images = options.data, options.images
    if not data:
        data, trained_with = _trained_on(options, model)
        images = images or trained_with
    dataset = open_datasets(data, images=images, announce=print)
    if not any(any(image.captions) for image in dataset.split(options.split)):
        counts = ", ".join(f"{name} {count:,}" for name, count in dataset.counts().items())
        raise DataError(
            f"{dataset.paths} has no captioned image in the split {options.split!r} "
            f"({counts}); name another --split or other --data"
        )
    return dataset


def _trained_on(
    options: EvaluationOptions, model: LoadedEngine
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets that the model was trained on, and the folders of their images."""
    trained_on = model.summary.get("data", {})
    data, images = [], []
    for one in trained_on.get("sets", [trained_on]):
        path = one.get("json")
        is_here = bool(path) and Path(path).exists()
        if not is_here and one.get("name") != SAMPLE:
            raise DataError(
                f"the data that {options.checkpoint} was trained on are not here ({path}); "
                "name them by --data"
            )
        data.append(path if is_here else SAMPLE)
        images.append(one["images"] if is_here else "")
    return tuple(data), tuple(images)


def _to_json(validation: Validation, facts: Mapping[str, Any]) -> dict[str, Any]:
    value = validation.scores.to_json()
    if validation.shapes_named is not None:
        value[SHAPES_NAMED] = validation.shapes_named
    value["signature"] |= facts
    return value


def _signature(
    options: EvaluationOptions, search: SearchConfig, model: LoadedEngine
) -> dict[str, Any]:
    """Return how the captions are made: what the scores alone do not tell."""
    return {
        "split": options.split,
        **{name: getattr(search, name) for name in _SEARCH_OPTIONS},
        "checkpoint": str(options.checkpoint),
        "checkpoint_hash": model.hash,
        "engine": model.engine.describe()["engine"],
    }


if __name__ == "__main__":
    sys.exit(main())
