"""Score a checkpoint on a split of its data set, or of another one.

python training/evaluate_coco.py --checkpoint runs/NAME/best --split test
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from captioner.allocator import keep_freed_memory
from captioner.checkpoint import Checkpoint, load_checkpoint
from captioner.data.karpathy import SPLITS, CaptionDataset, CaptionedImage
from captioner.data.open_dataset import open_dataset
from captioner.devices import choose_device
from captioner.encoder.store import FeatureStore
from captioner.engine import TorchEngine
from captioner.errors import CaptionerError, DataError, OptionError
from captioner.files import write_json
from captioner.metrics import scores_table
from captioner.search_config import SearchConfig
from training.feature_sources import ImageSource, LiveImages, StoredFeatures
from training.validation import SHAPES_NAMED, Validation, Validator, write_captions

_BAD_INPUT, _INTERRUPTED = 2, 130  # exit statuses


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    checkpoint: Path
    split: str = "test"
    data: str | None = None  # None: what the checkpoint was trained on
    images: Path | None = None
    search: SearchConfig
    feature_store: Path | None = None
    batch_size: int = 50
    device: str = "auto"
    threads: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says, and return the exit status."""
    values = vars(_parser().parse_args(words))
    out, captions_out = values.pop("out"), values.pop("captions_out")
    keep_freed_memory()
    try:
        search = SearchConfig(
            **{name: values.pop(name) for name in _SEARCH_OPTIONS if name in values}
        )
        config = EvaluationConfig(search=search, **values)
        checkpoint = load_checkpoint(config.checkpoint)
        images = _images(config, checkpoint)
        validation, scored = evaluate(config, checkpoint, images)
        print(scores_table(validation.scores))
        if validation.shapes_named is not None:
            print(f"colour and kind of every shape named rightly: {validation.shapes_named:.1%}")
        if captions_out is not None:
            write_captions(captions_out, scored, validation.captions)
        if out is not None:
            write_json(out, _to_json(validation, config, checkpoint))
    except CaptionerError as problem:
        print(f"evaluate_coco.py: {problem}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def evaluate(
    config: EvaluationConfig, checkpoint: Checkpoint, images: Sequence[CaptionedImage]
) -> tuple[Validation, Sequence[CaptionedImage]]:
    """Caption and score the images; also return those that have references."""
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    engine = TorchEngine(checkpoint.encoder, checkpoint.decoder, device)
    validator = Validator(
        images,
        checkpoint.vocabulary,
        config.search,
        batch_size=config.batch_size,
    )
    with validator, closing(_source(config, checkpoint, images, device)) as source:
        validation = validator.run(engine, source, description=config.split)
    assert validation is not None, "nobody asked it to stop"
    return validation, validator.images


def _source(
    config: EvaluationConfig,
    checkpoint: Checkpoint,
    images: Sequence[CaptionedImage],
    device: torch.device,
) -> ImageSource:
    if checkpoint.summary.get("training", {}).get("fine_tune_encoder", "none") != "none":
        # Such an encoder belongs to this checkpoint alone: storing its features would not pay.
        return LiveImages(
            checkpoint.encoder,
            images,
            workers=config.workers,
            device=device,
            amp="off",
            announce=print,
        )
    store = FeatureStore.open(
        config.feature_store,
        checkpoint.encoder,
        images,
        workers=config.workers,
        progress=True,
        announce=print,
    )
    return StoredFeatures(store, None, device)


def _images(config: EvaluationConfig, checkpoint: Checkpoint) -> list[CaptionedImage]:
    dataset = _dataset(config, checkpoint)
    images = dataset.split(config.split)
    if not any(any(image.captions) for image in images):
        counts = ", ".join(f"{name} {count:,}" for name, count in dataset.counts().items())
        raise DataError(
            f"{dataset.json_path} has no captioned image in the split {config.split!r} "
            f"({counts}); name another --split or other --data"
        )
    return images


def _dataset(config: EvaluationConfig, checkpoint: Checkpoint) -> CaptionDataset:
    data, images = config.data, config.images
    if data is None:
        trained_on = checkpoint.summary.get("data", {})
        data = trained_on.get("json")
        if trained_on.get("name") == "shapes" and not (data and Path(data).exists()):
            data = "shapes"
        elif data is None or not Path(data).exists():
            raise DataError(
                f"the data that {config.checkpoint} was trained on are not here ({data}); "
                "name them by --data"
            )
        elif images is None:
            images = Path(trained_on["images"])
    return open_dataset(data, images=images, announce=print)


def _to_json(
    validation: Validation, config: EvaluationConfig, checkpoint: Checkpoint
) -> dict[str, Any]:
    value = validation.scores.to_json()
    if validation.shapes_named is not None:
        value[SHAPES_NAMED] = validation.shapes_named
    value["signature"] |= {
        "split": config.split,
        "beam_size": config.search.beam_size,
        "length_power": config.search.length_power,
        "max_length": config.search.max_length,
        "checkpoint": str(config.checkpoint),
        "checkpoint_hash": checkpoint.hash,
    }
    return value


_SEARCH_OPTIONS = ("beam_size", "length_power", "max_length")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate_coco.py",
        description="Score a checkpoint's captions with BLEU, METEOR, ROUGE-L and CIDEr.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add, search = parser.add_argument, SearchConfig()
    add("--checkpoint", type=Path, required=True, metavar="RUN/best", help="folder to score")
    add("--split", choices=SPLITS, help="images to score on (default: test)")
    add("--data", metavar="DATA", help="coco, shapes or a path; default: what it was trained on")
    add("--images", type=Path, metavar="PATH", help="folder of the images")
    add("--beam-size", type=int, metavar="N", help=f"default: {search.beam_size}; 1 is greedy")
    add(
        "--length-power",
        type=float,
        metavar="X",
        help=f"the score is divided by tokens ** X (default: {search.length_power})",
    )
    add(
        "--max-length", type=int, metavar="N", help=f"words, at most (default: {search.max_length})"
    )
    add("--out", type=Path, default=None, metavar="FILE", help="write the scores as JSON")
    add(
        "--captions-out", type=Path, default=None, metavar="FILE", help="write the captions as JSON"
    )
    add("--feature-store", type=Path, metavar="PATH", help="folder of the stored features")
    add("--batch-size", type=int, metavar="N", help="images at once (default: 50)")
    add("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add("--threads", type=int, metavar="N", help="threads of the CPU; default: PyTorch's")
    add("--workers", type=int, metavar="N", help="threads that read and decode images (default: 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
