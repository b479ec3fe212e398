"""Options of the benchmark of inference, and the models that it makes."""

from dataclasses import dataclass
from pathlib import Path

from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, Options, option

PARTS = ("decoder", "photograph", "start", "memory", "large")
PAGE_START, PAGE_END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """A model of the benchmark."""

    encoder: str  # timm's name, also of its file of weights
    words: int
    title: str


MODELS = {
    "resnet152": ModelSizes(encoder="resnet152", words=9487, title="ResNet-152, COCO's sizes"),
    "lite1": ModelSizes(
        encoder="tf_efficientnet_lite1", words=2541, title="EfficientNet-Lite1, Flickr8k's sizes"
    ),
    "mobilenetv2": ModelSizes(
        encoder="mobilenetv2_100", words=2541, title="MobileNetV2, Flickr8k's sizes"
    ),
    "tiny": ModelSizes(encoder="test_resnet", words=60, title="a tiny network, for a trial"),
}


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(Options):
    before: tuple[Path, ...] = option(
        (), "checkouts of earlier commits to compare with; ratios are to the first", metavar="DIR"
    )
    parts: tuple[str, ...] = option(PARTS, "what is measured", choices=PARTS)
    models: tuple[str, ...] = option(
        ("resnet152", "lite1", "mobilenetv2"), "whose figures are taken", choices=tuple(MODELS)
    )
    contestants: tuple[str, ...] = option((), "only these, by name; default: all", metavar="NAME")
    weights: Path | None = option(
        None, "folder with ENCODER.safetensors; random weights where there is none", metavar="DIR"
    )
    batches: tuple[int, ...] = option((1, 8), "images at a time", within=AT_LEAST_ONE)
    threads: int = option(2, "of the CPU", within=AT_LEAST_ONE)
    rounds: int = option(9, "most turns of each contestant", within=AT_LEAST_ONE)
    seconds: float = option(
        12.0, "for a table; at least three turns are taken whatever they last", within=ABOVE_ZERO
    )
    work: Path = option(Path("runs/bench_inference"), "where models are made, once", metavar="DIR")
    out: Path = option(
        Path("runs/bench_inference"),
        "folder of inference.json and .png, and of the tables in inference.md",
        metavar="DIR",
    )
    prepare: bool = option(False, "only make models and photographs, which takes minutes")
    again: bool = option(False, "measure also what inference.json has already")
    quick: bool = option(False, "a trial with a tiny network; its figures say nothing")
