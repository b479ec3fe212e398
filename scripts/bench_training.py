"""Time this project's training step against the textbook one, in one run, taking turns.

Both train the same soft-attention model from the same weights: forward, loss, backward,
gradient clipping and Adam. The textbook step holds 64 captions of similar length, repeats the
features for every caption and loops over an LSTMCell; ours holds 25 images with five captions
of any length. Each step gets fresh captions, so no contestant profits from repeated shapes.

With `--beside N` our step takes turns with itself instead: alone, and beside N other processes
that keep a core busy each. It must keep at least 80 % of its fair share of the cores.

    python scripts/bench_training.py --json bench.json
    python scripts/bench_training.py --beside 2
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from bench_turns import BenchOptions, load_of_others, record
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from captioner.cores import available_cores
from captioner.decoders import CaptionBatch, build_decoder
from captioner.decoders.soft_attention import SoftAttention
from captioner.features import Features
from captioner.flags import options_parser
from captioner.hdetach.masks import sample_keep
from captioner.options import AT_LEAST_ONE, NOT_NEGATIVE, PROBABILITY, option
from captioner.program import run_program
from captioner.vocabulary import END, PAD, START
from training.objectives.cross_entropy import caption_loss

CLIP_NORM = 5.0
LEARNING_RATE = 4e-4
STEPS_IN_A_TURN = 5
LEAST_KEPT = 0.8  # of the fair share
TOO_SLOW = 1  # exit status
Step = Callable[[int], tuple[int, float]]  # of a round's number: captions, seconds
Rates = dict[str, list[float]]  # captions a second, by contestant


@dataclass(frozen=True, kw_only=True)
class StepOptions(BenchOptions):
    p: float = option(0.4, "probability to detach", within=PROBABILITY)
    feature_size: int = option(1280, "features of a position", within=AT_LEAST_ONE)
    positions: int = option(49, "of the grid", within=AT_LEAST_ONE)
    vocabulary_size: int = option(2541, "words", within=AT_LEAST_ONE)
    feature_embedding_size: int = option(0, "0 is none", within=NOT_NEGATIVE)
    batch_size: int = option(25, "images, five captions each", within=AT_LEAST_ONE)
    textbook_captions: int = option(64, "captions of a textbook batch", within=AT_LEAST_ONE)
    rounds: int = option(15, "turns of each contestant", within=AT_LEAST_ONE)
    warmup: int = option(2, "turns before them", within=NOT_NEGATIVE)
    beside: int = option(0, "time our step beside N other busy processes", within=NOT_NEGATIVE)
    amp: str = option("off", "add a bf16 row", choices=("off", "bf16"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(StepOptions, description=(__doc__ or "").splitlines()[0])
    return run_program(
        "bench_training.py", lambda: bench(StepOptions.from_json(vars(parser.parse_args(argv))))
    )


def bench(options: StepOptions) -> int:
    """Let the contestants take turns; return 1 if ours keeps too little speed beside others."""
    torch.set_num_threads(options.threads)
    before = load_of_others()
    with alone_and_beside(options) if options.beside else nullcontext(pair(options)) as contestants:
        rates: Rates = {name: [] for name in contestants}
        for round_number in range(-options.warmup, options.rounds):
            for name, turn in contestants.items():
                captions, seconds = turn(round_number)
                if round_number >= 0:
                    rates[name].append(captions / seconds)
    record(options, before, report(rates))
    if not options.beside:
        return 0
    alone, beside = map(statistics.median, rates.values())
    kept = beside / alone
    fair = fair_share(options.threads, options.beside, available_cores())
    print(
        f"fair share: {fair:.0%} of its speed alone; it keeps {kept:.0%}, {kept / fair:.0%} of it"
    )
    return 0 if kept >= LEAST_KEPT * fair else TOO_SLOW


def pair(options: StepOptions) -> dict[str, Step]:
    contestants = {
        "textbook": textbook(options),
        "ours, p = 0": ours(options, 0.0, None),
        f"ours, p = {options.p:g}": ours(options, options.p, None),
    }
    if options.amp == "bf16":
        contestants[f"ours, p = {options.p:g}, bf16"] = ours(options, options.p, torch.bfloat16)
    return contestants


@contextmanager
def alone_and_beside(options: StepOptions) -> Iterator[dict[str, Step]]:
    """Give turns of our step alone, and beside so many processes that each keep a core busy."""
    step = ours(options, options.p, None)
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(options.beside)]

    def turn(number: int, round_number: int) -> tuple[int, float]:
        for other in others:
            other.send_signal(number)
        captions, seconds = zip(*(step(round_number) for _ in range(STEPS_IN_A_TURN)), strict=True)
        return sum(captions), sum(seconds)

    try:
        yield {
            "alone": partial(turn, signal.SIGSTOP),
            f"beside {options.beside} others": partial(turn, signal.SIGCONT),
        }
    finally:
        for other in others:
            other.kill()
            other.wait()


def fair_share(threads: int, others: int, cores: int) -> float:
    """Return the part of its speed alone that a program keeps if all get the same of the cores.

    It has so many threads, which wait for each other, and each of the others has one.
    """
    alone = min(1.0, cores / threads)
    return min(1.0, cores / (threads + others)) / alone


def build(options: StepOptions) -> SoftAttention:
    decoder = build_decoder(
        "soft_attention",
        SoftAttention.Options(feature_embedding_size=options.feature_embedding_size),
        vocabulary_size=options.vocabulary_size,
        feature_size=options.feature_size,
    )
    assert isinstance(decoder, SoftAttention)
    return decoder.train()


def draw_captions(count: int, vocabulary_size: int, generator: torch.Generator) -> list[list[int]]:
    """Draw captions like Flickr8k's: 10.8 words on average, deviation 3.8, 3 to 20 of them.

    A word's frequency falls with its rank as (rank + 1) ** -1.3; 125 captions then hold about 316
    different words; 25 images of Flickr8k hold 324 (mean of 50 draws).
    """
    lengths = torch.normal(10.8, 3.8, (count,), generator=generator).round().clamp(3, 20).int()
    frequencies = torch.arange(2, vocabulary_size - 2) ** -1.3
    words = torch.multinomial(frequencies, int(lengths.sum()), True, generator=generator) + 4
    return [caption.tolist() for caption in words.split(lengths.tolist())]


def ours(options: StepOptions, p: float, dtype: torch.dtype | None) -> Step:
    decoder = build(options)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE, fused=True)
    images = options.batch_size

    def step(round_number: int) -> tuple[int, float]:
        generator = torch.Generator().manual_seed(1000 + round_number)
        features = torch.rand(images, options.positions, options.feature_size, generator=generator)
        words = draw_captions(5 * images, options.vocabulary_size, generator)
        start = time.perf_counter()
        batch = CaptionBatch.pack([words[5 * b : 5 * b + 5] for b in range(images)])
        keep = sample_keep(batch.steps, p, generator=generator)
        output = decoder(
            Features(features), batch, keep=keep, generator=generator, product_dtype=dtype
        )
        update(decoder, optimiser, caption_loss(output, batch))
        return 5 * images, time.perf_counter() - start

    return step


def textbook(options: StepOptions) -> Step:
    decoder = build(options)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
    count = options.textbook_captions

    def step(round_number: int) -> tuple[int, float]:
        generator = torch.Generator().manual_seed(2000 + round_number)
        features = torch.rand(count, options.positions, options.feature_size, generator=generator)
        pool = draw_captions(10 * count, options.vocabulary_size, generator)
        first = int(torch.randint(0, 9 * count, (1,), generator=generator))
        captions = sorted(pool, key=len)[first : first + count]
        start = time.perf_counter()
        inputs = pad_sequence([torch.tensor([START, *one]) for one in captions], True, PAD)
        targets = pad_sequence([torch.tensor([*one, END]) for one in captions], True, PAD)
        logits = textbook_logits(decoder, features, inputs)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD
        )
        update(decoder, optimiser, loss)
        return count, time.perf_counter() - start

    return step


def update(decoder: SoftAttention, optimiser: torch.optim.Adam, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(decoder.parameters(), CLIP_NORM)
    optimiser.step()


def textbook_logits(d: SoftAttention, features: Tensor, inputs: Tensor) -> Tensor:
    """Return the logits of the same soft attention as tutorials write it, on the weights of `d`.

    Shapes:
        features [captions, P, D], one copy a caption, inputs [captions, steps]
        -> logits [captions, steps, V].
    """
    values = features
    if d.embed_features is not None:
        values = nn.functional.dropout(torch.relu(d.embed_features(features)), 0.5)
    keys = d.attention_keys(values)
    hidden, cell = torch.tanh(d.initial_state(values.mean(1))).chunk(2, dim=1)
    words = nn.functional.dropout(d.embedding(inputs), 0.5)
    weight_ih = torch.cat([d.word_gates.weight, d.context_gates.weight], dim=1)
    logits = []
    for t in range(inputs.shape[1]):
        scores = d.attention_score(torch.tanh(keys + d.attention_query(hidden).unsqueeze(1)))
        attention = scores.squeeze(2).softmax(dim=1)
        context = (attention.unsqueeze(2) * values).sum(1) * d.context_gate(hidden).sigmoid()
        hidden, cell = torch.lstm_cell(
            torch.cat([words[:, t], context], dim=1),
            (hidden, cell),
            weight_ih,
            d.recurrent_gates.weight,
            d.word_gates.bias,
            torch.zeros_like(d.word_gates.bias),
        )
        logits.append(d.output(nn.functional.dropout(hidden, 0.5)))
    return torch.stack(logits, dim=1)


def report(rates: Rates) -> dict[str, Any]:
    """Print the rates, and return them with their ratios to those of the first."""
    base = statistics.median(next(iter(rates.values())))
    print(f"{'captions/s':<24}{'median':>10}{'min':>10}{'max':>10}{'ratio':>10}")
    figures = {}
    for name, values in rates.items():
        median = statistics.median(values)
        ratio = median / base
        print(f"{name:<24}{median:>10.1f}{min(values):>10.1f}{max(values):>10.1f}{ratio:>9.2f}x")
        figures[name] = {"median": median, "values": values, "ratio": ratio}
    return figures


if __name__ == "__main__":
    sys.exit(main())
