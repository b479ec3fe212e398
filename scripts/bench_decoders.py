"""Time every decoder: a training step, and a caption by greedy search and by a beam of three.

All decoders take turns, with fresh captions and images each time, at the sizes of Flickr8k. A step
is forward, losses, backward, clipping and Adam, in float32. The end of a caption is made too
improbable to be written, so that all captions have the same number of words.

    python scripts/bench_decoders.py --json bench.json --page docs/decoders.md
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_inference import write_page
from bench_training import draw_captions
from bench_turns import BenchOptions, load_of_others, machine, record
from torch import nn

from captioner.decoders import DECODERS, CaptionBatch, Decoder, build_decoder
from captioner.engines.torch_engine import TorchDecoding
from captioner.features import Features
from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, option
from captioner.program import run_program
from captioner.search import search
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, SPECIAL_TOKENS
from training.objectives.cross_entropy import caption_loss, with_terms
from training.objectives.interface import DecoderPass

CLIP_NORM = 5.0
LEARNING_RATE = 4e-4
CAPTIONS_PER_IMAGE = 5
NEVER = -50.0  # bias of the end's logit
KINDS = ("step", "greedy", "beam 3")
Times = dict[str, dict[str, list[float]]]  # milliseconds, by decoder and by kind of turn


@dataclass(frozen=True, kw_only=True)
class DecoderBenchOptions(BenchOptions):
    decoders: tuple[str, ...] = option(
        (), "decoders to time; default: all", choices=tuple(DECODERS), metavar="NAME"
    )
    feature_size: int = option(1280, "features of a position", within=AT_LEAST_ONE)
    positions: int = option(49, "of the grid", within=AT_LEAST_ONE)
    vocabulary_size: int = option(2541, "words", within=AT_LEAST_ONE)
    batch_size: int = option(25, "images, five captions each", within=AT_LEAST_ONE)
    words: int = option(12, "of a caption that is found", within=AT_LEAST_ONE)
    attributes: int = option(500, "words that detectors of attributes know", within=AT_LEAST_ONE)
    warmup: int = option(2, "turns before those that count", within=NOT_NEGATIVE)
    page: Path | None = option(
        None, "page with marks for figures to put the table between", metavar="FILE"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(DecoderBenchOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_decoders.py",
        lambda: bench(DecoderBenchOptions.from_json(vars(parser.parse_args(argv)))),
    )


def bench(options: DecoderBenchOptions) -> int:
    torch.set_num_threads(options.threads)
    before = load_of_others()
    contestants = {name: Contestant(name, options) for name in options.decoders or DECODERS}
    times: Times = {name: {kind: [] for kind in KINDS} for name in contestants}
    for number in range(-options.warmup, options.rounds):
        for kind in KINDS:
            for name, one in contestants.items():
                milliseconds = 1000 * one.turns[kind](number)
                if number >= 0:
                    times[name][kind].append(milliseconds)
    figures = {
        name: {
            "parameters": one.parameters,
            **{f"{kind}_ms": statistics.median(times[name][kind]) for kind in KINDS},
            "times_ms": times[name],
        }
        for name, one in contestants.items()
    }
    lines = table(options, figures)
    print("\n".join(lines))
    if options.page is not None:
        write_page(options.page, "\n".join([*lines, "", said_of(options), ""]))
    record(options, before, figures)
    return 0


class Contestant:
    """A decoder of default sizes with its optimiser, and its kinds of turns."""

    def __init__(self, name: str, options: DecoderBenchOptions) -> None:
        self._options = options
        self._decoder = a_decoder(name, options)
        self._optimiser = torch.optim.Adam(self._decoder.parameters(), lr=LEARNING_RATE)
        self.parameters = sum(one.numel() for one in self._decoder.captioning_state().values())
        self.turns: Mapping[str, Callable[[int], float]] = {
            "step": self.step,
            "greedy": lambda number: self.caption(number, beam_size=1),
            "beam 3": lambda number: self.caption(number, beam_size=3),
        }

    def step(self, number: int) -> float:
        """Return the seconds of a training step; its batch follows from the number."""
        options, decoder = self._options, self._decoder.train()
        images = options.batch_size
        generator = torch.Generator().manual_seed(1000 + number)
        features = self._features(images, generator)
        drawn = draw_captions(CAPTIONS_PER_IMAGE * images, options.vocabulary_size, generator)
        run = DecoderPass(
            p=0.0, masks=generator, dropout=generator, draws=generator, product_dtype=None
        )
        start = time.perf_counter()
        batch = CaptionBatch.pack([drawn[image::images] for image in range(images)])
        output = run(decoder, features, batch)
        loss, _ = with_terms(caption_loss(output, batch), output)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), CLIP_NORM)
        self._optimiser.step()
        return time.perf_counter() - start

    @torch.no_grad()
    def caption(self, number: int, *, beam_size: int) -> float:
        """Return the seconds from an image's features to its caption."""
        decoder = self._decoder.eval()
        decoder.output.bias[END] = NEVER  # type: ignore[union-attr, operator]
        features = self._features(1, torch.Generator().manual_seed(2000 + number))
        config = SearchConfig(beam_size=beam_size, max_length=self._options.words)
        start = time.perf_counter()
        [[found]] = search(TorchDecoding(decoder, features), [config])
        seconds = time.perf_counter() - start
        assert len(found.words) == self._options.words
        return seconds

    def _features(self, images: int, generator: torch.Generator) -> Features:
        shape = (images, self._options.positions, self._options.feature_size)
        return Features(torch.rand(shape, generator=generator))


def a_decoder(name: str, options: DecoderBenchOptions) -> Decoder:
    """Return a decoder with weights of its own, and words for its detector, if it has one."""
    generator = torch.Generator().manual_seed(0)
    decoder = build_decoder(
        name,
        vocabulary_size=options.vocabulary_size,
        feature_size=options.feature_size,
        generator=generator,
    )
    if decoder.attribute_detector is not None:
        known = min(options.attributes, options.vocabulary_size - len(SPECIAL_TOKENS))
        weight = torch.randn(known, options.feature_size, generator=generator)
        ids = range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + known)
        decoder.attribute_detector.take(weight, torch.full((known,), -4.0), list(ids))  # type: ignore[operator]
    decoder.begin_training(generator)
    return decoder


def table(options: DecoderBenchOptions, figures: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table in Markdown."""
    captions = CAPTIONS_PER_IMAGE * options.batch_size
    title = f"| decoder | parameters | training step of {captions} captions | greedy | beam 3 |"
    lines = [title, "|---|---:|---:|---:|---:|"]
    for name, of in figures.items():
        spent = " | ".join(f"{of[f'{kind}_ms']:.1f} ms" for kind in KINDS)
        lines.append(f"| `{name}` | {of['parameters'] / 1e6:.1f} M | {spent} |")
    return lines


def said_of(options: DecoderBenchOptions) -> str:
    """Return in a sentence what the figures are of."""
    facts = machine()
    return (
        f"Medians of {options.rounds} turns that all decoders took one after the other; a caption "
        f"of {options.words} words from features that are there. {options.positions} positions of "
        f"{options.feature_size} features, {options.vocabulary_size:,} words, "
        f"{options.threads} threads, PyTorch {torch.__version__}, {facts['model']}, commit "
        f"{facts['commit']}. `python scripts/bench_decoders.py --rounds {options.rounds} "
        f"--threads {options.threads} --page docs/decoders.md`"
    )


if __name__ == "__main__":
    sys.exit(main())
