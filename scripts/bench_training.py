"""Time this project's training step against the textbook one, in one run, taking turns.

Both train the same soft-attention model from the same weights: forward, loss, backward,
gradient clipping and Adam. The textbook step holds 64 captions of similar length, repeats the
features for every caption and loops over an LSTMCell; ours holds 25 images with five captions
of any length. Each step gets fresh captions, so no contestant profits from repeated shapes.

    python scripts/bench_training.py --json bench.json
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from captioner.decoders import CaptionBatch, build_decoder
from captioner.decoders.soft_attention import SoftAttention
from captioner.features import Features
from captioner.files import write_json
from captioner.hdetach.masks import sample_keep
from captioner.vocabulary import END, PAD, START
from training.objectives.cross_entropy import caption_loss

CLIP_NORM = 5.0
LEARNING_RATE = 4e-4


def main() -> int:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"note: the load is {busy:.1f}; ratios from a busy machine are worth little")
    contestants = make_contestants(options)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(-options.warmup, options.rounds):
        for name, step in contestants.items():
            captions, seconds = step(round_number)
            if round_number >= 0:
                rates[name].append(captions / seconds)
    return report(options, rates)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--p", type=float, default=0.4, help="probability to detach")
    parser.add_argument("--feature-size", type=int, default=1280)
    parser.add_argument("--positions", type=int, default=49)
    parser.add_argument("--vocabulary-size", type=int, default=2541)
    parser.add_argument("--feature-embedding-size", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=25, help="images, five captions each")
    parser.add_argument("--textbook-captions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="add a bf16 row")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser.parse_args()


def make_contestants(
    options: argparse.Namespace,
) -> dict[str, Callable[[int], tuple[int, float]]]:
    contestants = {
        "textbook": textbook(options),
        "ours, p = 0": ours(options, 0.0, None),
        f"ours, p = {options.p:g}": ours(options, options.p, None),
    }
    if options.amp == "bf16":
        contestants[f"ours, p = {options.p:g}, bf16"] = ours(options, options.p, torch.bfloat16)
    return contestants


def build(options: argparse.Namespace) -> SoftAttention:
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


def ours(
    options: argparse.Namespace, p: float, dtype: torch.dtype | None
) -> Callable[[int], tuple[int, float]]:
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
        optimiser.zero_grad(set_to_none=True)
        caption_loss(output, batch).backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), CLIP_NORM)
        optimiser.step()
        return 5 * images, time.perf_counter() - start

    return step


def textbook(options: argparse.Namespace) -> Callable[[int], tuple[int, float]]:
    decoder = build(options)
    model = TextbookDecoder(decoder)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
    count = options.textbook_captions

    def step(round_number: int) -> tuple[int, float]:
        generator = torch.Generator().manual_seed(2000 + round_number)
        features = torch.rand(count, options.positions, options.feature_size, generator=generator)
        pool = draw_captions(10 * count, options.vocabulary_size, generator)
        first = int(torch.randint(0, 9 * count, (1,), generator=generator))
        captions = sorted(pool, key=len)[first : first + count]
        start = time.perf_counter()
        steps = max(map(len, captions)) + 1
        inputs, targets = (torch.full((count, steps), PAD) for _ in range(2))
        for row, caption in enumerate(captions):
            inputs[row, : len(caption) + 1] = torch.tensor([START, *caption])
            targets[row, : len(caption) + 1] = torch.tensor([*caption, END])
        logits = model(features, inputs)
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD
        ).backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), CLIP_NORM)
        optimiser.step()
        return count, time.perf_counter() - start

    return step


class TextbookDecoder:
    """The same soft attention as tutorials write it, on the weights of a `SoftAttention`."""

    def __init__(self, decoder: SoftAttention) -> None:
        self.decoder = decoder

    def __call__(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return logits [captions, steps, V]; features [captions, P, D], one copy a caption."""
        d = self.decoder
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


def report(options: argparse.Namespace, rates: dict[str, list[float]]) -> int:
    base = statistics.median(rates["textbook"])
    print(f"{'captions/s':<24}{'median':>10}{'min':>10}{'max':>10}{'ratio':>10}")
    figures = {}
    for name, values in rates.items():
        median = statistics.median(values)
        ratio = median / base
        print(f"{name:<24}{median:>10.1f}{min(values):>10.1f}{max(values):>10.1f}{ratio:>9.2f}x")
        figures[name] = {"median": median, "values": values, "ratio": ratio}
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        machine = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
        write_json(options.json, {"settings": settings, "machine": machine, "rates": figures})
        print(f"written: {json.dumps(str(options.json))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
