"""Fit how confident a model may be in its captions, and store the curve with the model.

python training/calibrate.py runs/NAME/best --data DATA
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded, where the model needs it

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from captioner.captioner import READING_THREADS, Captioner, load
from captioner.checkpoint_folders import find_checkpoint
from captioner.confidence import ConfidenceCurve, figures_of, store_confidence_curve
from captioner.data.joint import JointDataset
from captioner.data.karpathy import SPLITS, CaptionedImage
from captioner.data.open_dataset import open_datasets
from captioner.errors import DataError, ImageError, OptionError
from captioner.files import refuse_to_overwrite, write_json
from captioner.flags import OneLineParser, options_parser
from captioner.metrics.ngram_metrics import Cider
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, option
from captioner.program import run_program
from captioner.progress import Progress
from captioner.search_config import SearchConfig
from training.confidence_fit import Reliability, fit_logistic, left_out

_FEWEST = 50  # photographs


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(Options):
    data: tuple[str, ...] = option(
        MISSING,
        "coco, shapes or a path, or several: photographs with captions of people",
        metavar="DATA",
    )
    images: tuple[str, ...] = option(
        (), "folder of the images of each, where it is not beside", metavar="FOLDER"
    )
    split: str = option("val", "images to fit to; none that was trained on", choices=SPLITS)
    plot: Path | None = option(None, "draw the reliability as PNG", metavar="FILE")
    out: Path | None = option(None, "write the measures as JSON", metavar="FILE")
    seed: int = option(0, "of the halves that are fitted and judged in turn", within=NOT_NEGATIVE)
    batch_size: int = option(16, "photographs captioned together", within=AT_LEAST_ONE)
    device: str = option("cpu", "auto, cpu, cuda ...", metavar="NAME")
    engine: str | None = option(
        None, "what runs the model; default: as the folder says", metavar="NAME"
    )
    threads: int | None = option(None, "processor threads; all cores if not given")


class Outcomes(NamedTuple):
    """The captions of photographs, as far as confidence depends on them, and how they did."""

    figures: np.ndarray  # [photographs, figures]
    passed: np.ndarray  # [photographs], the share of trials against others' captions
    bars: dict[str, float]  # of each data set


def main(argv: Sequence[str] | None = None, program: str = "calibrate.py") -> int:
    """Calibrate as the command line says, and return the exit status."""
    return run_program(program, lambda: _calibrate(argv, program))


def build_parser(program: str = "calibrate.py") -> OneLineParser:
    """Return the parser of this script's command line."""
    parser = options_parser(
        CalibrationOptions,
        prog=program,
        description="Fit the chance that a caption agrees with people's as well as half of theirs "
        "do with each other, print how well it holds on captions left out of the fit, and store it "
        "with the model. The captions are the best ones of the usual search.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="exported model, checkpoint, run")
    return parser


def _calibrate(argv: Sequence[str] | None, program: str) -> None:
    given = vars(build_parser(program).parse_args(argv))
    folder = find_checkpoint(given.pop("model"))
    options = CalibrationOptions.from_json(given)
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise OptionError(f"--plot is {options.plot}; give a name ending in .png")
    captioner = load(folder, options.device, options.engine, options.threads)
    dataset = open_datasets(options.data, images=options.images, announce=print)
    for name, out in (("--plot", options.plot), ("--out", options.out)):
        if out is not None:
            refuse_to_overwrite(name, [out], chain(folder.iterdir(), dataset.files))
    found = outcomes_of(captioner, dataset, options)
    curve, reliability = fit(found, dataset, options)
    for line in lines(found, reliability):
        print(line)
    if options.plot is not None:
        from training.reliability_plot import draw_reliability

        draw_reliability(reliability, options.plot)
        print(f"drawn: {options.plot}")
    if options.out is not None:
        write_json(options.out, {"bars": found.bars, **asdict(reliability)})
    store_confidence_curve(folder, curve)
    print(f"stored in {folder}; its hash has changed with it")


def fit(
    found: Outcomes, dataset: JointDataset, options: CalibrationOptions
) -> tuple[ConfidenceCurve, Reliability]:
    """Return the curve of all photographs, and how curves of one half did on the other."""
    reliability = Reliability.of(left_out(found.figures, found.passed, options.seed), found.passed)
    weights, bias = fit_logistic(found.figures, found.passed)
    fitted = {
        "data": list(dataset.names),
        "split": options.split,
        "bars": found.bars,
        "search": {"beam_size": SearchConfig.beam_size, "length_power": SearchConfig.length_power},
        "left_out": {name: one for name, one in asdict(reliability).items() if name != "bins"},
    }
    return ConfidenceCurve(weights=tuple(weights.tolist()), bias=bias, fitted=fitted), reliability


def outcomes_of(
    captioner: Captioner, dataset: JointDataset, options: CalibrationOptions
) -> Outcomes:
    """Caption the photographs and judge the captions as people's are judged.

    Photographs that cannot be read are left out, named and counted.

    Raises:
        DataError: there are too few photographs with two captions of people each, or all captions
            do alike.
    """
    by_set = [
        [image for image in images if len(image.captions) > 1]
        for images in dataset.split_by_set(options.split)
    ]
    total = sum(map(len, by_set))
    _refuse_few(total, dataset, options)
    figures, passed, bars = [], [], {}
    with (
        Progress(total, "captioning", unit="photographs") as progress,
        ThreadPoolExecutor(READING_THREADS) as threads,
    ):
        for name, images in zip(dataset.names, by_set, strict=True):
            if not images:
                continue
            kept, texts = [], []
            for start in range(0, len(images), options.batch_size):
                batch = images[start : start + options.batch_size]
                read = list(threads.map(partial(_read, captioner), batch))
                kept += [image for image, one in zip(batch, read, strict=True) if one is not None]
                pixels = [one for one in read if one is not None]
                for best, *_ in captioner.captions_of_pixels(pixels, SearchConfig()):
                    figures.append(figures_of(best.token_log_probs))
                    texts.append(best.text)
                progress.advance(len(batch))
            if kept:
                bars[name], own = judge(kept, texts)
                passed += own
    if damaged := total - len(passed):
        print(
            f"left out: {damaged:,} of {total:,} photographs, which cannot be read",
            file=sys.stderr,
        )
        total -= damaged
        _refuse_few(total, dataset, options)
    if len(set(passed)) == 1:
        raise DataError(
            f"{'no' if not passed[0] else 'every'} caption of the {total} photographs agrees with "
            "people's as well as half of theirs do; there is nothing to fit: name other --data"
        )
    return Outcomes(np.array(figures), np.array(passed), bars)


def _refuse_few(total: int, dataset: JointDataset, options: CalibrationOptions) -> None:
    if total < _FEWEST:
        raise DataError(
            f"{dataset.paths} has {total} photographs with at least two captions in the split "
            f"{options.split!r}, and a fit needs {_FEWEST}; name another --split or more --data"
        )


def _read(captioner: Captioner, image: CaptionedImage) -> np.ndarray | None:
    """Return the pixels of a photograph, None of a damaged one, which is named."""
    try:
        return captioner.preprocessing.read(image.path)
    except ImageError as problem:
        print(f"skipped: {problem}", file=sys.stderr)
        return None


def judge(images: Sequence[CaptionedImage], written: Sequence[str]) -> tuple[float, list[float]]:
    """Return the bar, and for each written caption the share of its trials that it passed.

    A trial leaves one human caption of a photograph out: CIDEr-D against the other ones, idf of all
    captions, both for the one left out and for the written one. The bar is the median of the
    former over all trials.
    """
    references = [[" ".join(tokens) for tokens in image.tokens] for image in images]
    scored = Cider(references).score_without_each(written)
    bar = float(np.median([score for humans, _ in scored for score in humans]))
    return bar, [float(np.mean([score >= bar for score in own])) for _, own in scored]


def lines(found: Outcomes, reliability: Reliability) -> list[str]:
    """Return what a reader is told."""
    bars = ", ".join(f"{name} {100 * bar:.1f}" for name, bar in found.bars.items())
    brier, of_base_rate = reliability.brier, reliability.brier_of_base_rate
    return [
        f"median agreement of people (CIDEr-D x 100): {bars}",
        f"captions that reach it: {reliability.base_rate:.1%} of {reliability.captions:,}",
        "on captions left out of the fit (each half by the other):",
        f"  expected calibration error {reliability.calibration_error:.3f}",
        f"  Brier score {brier:.4f}, of the base rate {of_base_rate:.4f} "
        f"({1 - brier / of_base_rate:.1%} better)",
        f"  AUC {reliability.auc:.3f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
