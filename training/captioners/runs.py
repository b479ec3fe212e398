"""Runs of Table 3 as data: decoder, probability to detach, clipping and seed; the printed numbers.

Source: Kanuparthi, Arpit et al., *h-detach*, ICLR 2019, Table 3: Karpathy's test split of COCO,
ResNet-152 trained together with the LSTM in the rows of its own, scores times 100. It quotes the
other rows from the captioners' own papers, which had other encoders and decoding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import NamedTuple

from captioner.decoders import DECODERS

METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr")  # columns of the table
CLIPPED, UNCLIPPED = "on", "off"


@dataclass(frozen=True)
class CaptionerRun:
    decoder: str
    p: float
    seed: int
    is_clipped: bool = True

    @property
    def name(self) -> str:
        """The name of its folder."""
        clipping = "" if self.is_clipped else "-unclipped"
        return f"{self.decoder}-p{self.p:g}{clipping}-seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The options of its command line that no other run has."""
        unclipped = [] if self.is_clipped else ["--clip-norm", "0", "--clip-value", "0"]
        own = ["--decoder", self.decoder, "--p", f"{self.p:g}", "--seed", str(self.seed)]
        return [*own, *unclipped]


def options_for(decoder: str, words: Sequence[str]) -> list[str]:
    """Return the options of a command line without those that only other decoders have."""
    known = {name: {item.name for item in fields(one.Options)} for name, one in DECODERS.items()}
    foreign = set().union(*known.values()) - known[decoder]
    kept: list[str] = []
    is_kept = True
    for word in words:
        if word.startswith("--"):
            name = word[2:].split("=")[0].replace("-", "_")
            is_kept = name not in foreign and name.removeprefix("no_") not in foreign
        if is_kept:
            kept.append(word)
    return kept


class Group(NamedTuple):
    """What the runs have in common that differ in their seeds alone."""

    decoder: str
    p: float
    is_clipped: bool

    def __str__(self) -> str:
        return f"{self.decoder}, p = {self.p:g}" + ("" if self.is_clipped else ", not clipped")


def group_of(run: CaptionerRun) -> Group:
    return Group(run.decoder, run.p, run.is_clipped)


def runs_of(
    shares: Mapping[str, Sequence[float]], seeds: int, clipping: Sequence[str]
) -> Iterator[CaptionerRun]:
    """Yield all runs: those of the first seed with clipping first, which tell the most.

    `shares` are the probabilities to detach, by decoder.
    """
    for seed in range(seeds):
        for one in sorted(clipping, key=(CLIPPED, UNCLIPPED).index):
            for decoder, of_decoder in shares.items():
                for p in of_decoder:
                    yield CaptionerRun(decoder, p, seed, one == CLIPPED)


class PrintedRow(NamedTuple):
    """A row of the paper's table; None where it has a dash."""

    label: str
    scores: tuple[float | None, ...]  # in the order of METRICS


_NONE = None
PRINTED: Mapping[str, tuple[PrintedRow, ...]] = MappingProxyType(
    {
        "neuraltalk": (PrintedRow("DeepVS", (62.5, 45.0, 32.1, 23.0, 19.5, 66.0)),),
        "att_fcn": (PrintedRow("ATT-FCN", (70.9, 53.7, 40.2, 30.4, 24.3, _NONE)),),
        "show_tell": (
            PrintedRow("Show & Tell", (_NONE, _NONE, _NONE, 27.7, 23.7, 85.5)),
            PrintedRow("Show&Tell (Our impl.)", (71.7, 54.4, 39.7, 28.8, 24.8, 93.0)),
            PrintedRow("+ h-detach (0.25)", (72.9, 55.8, 41.7, 31.0, 25.1, 98.0)),
        ),
        "soft_attention": (
            PrintedRow("Soft Attention", (70.7, 49.2, 34.4, 24.3, 23.9, _NONE)),
            PrintedRow("Soft Attention (Our impl.)", (73.2, 56.3, 41.4, 30.1, 25.3, 96.6)),
            PrintedRow("+ h-detach (0.4)", (74.7, 58.1, 44.0, 33.1, 26.0, 103.3)),
        ),
        "hard_attention": (PrintedRow("Hard Attention", (71.8, 50.4, 35.7, 25.0, 23.0, _NONE)),),
        "lstm_attributes": (PrintedRow("MSM", (73.0, 56.5, 42.9, 32.5, 25.1, 98.6)),),
        "adaptive_attention": (
            PrintedRow("Adaptive Attention", (74.2, 58.0, 43.9, 33.2, 26.6, 108.5)),
        ),
        "twinnet": (PrintedRow("TwinNet, no attention", (72.3, 55.2, 40.4, 29.3, 25.1, 94.7)),),
        "twinnet_attention": (
            PrintedRow("TwinNet, soft attention", (73.8, 56.9, 42.0, 30.6, 25.2, 97.3)),
        ),
    }
)
