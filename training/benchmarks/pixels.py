"""MNIST read pixel by pixel: 784 steps of one number, then the digit, in order or permuted.

Pixels are divided by 255 and nothing else. With `--side N` images are shrunk to N x N pixels first,
each the mean of those it covers, for sequences that a CPU can learn: 196 steps at 14. The first
50,000 training images train, the last 10,000 validate, and the test images are used once, with the
model that validated best. The permutation is NumPy's `RandomState(seed).permutation(pixels)`, as in
the authors' code. There the seed was the run's, so every seed was a different task; here it is
separate.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captioner.errors import DataError
from captioner.options import AT_LEAST_ONE, Range, between, option
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Batch, SequenceModel, Task
from training.mnist import load_mnist
from training.randomness import derived_generator
from training.work import Figures

SIDE = 28  # of the images as they are
CLASSES = 10
_TRAINING_IMAGES = 50_000  # of 60,000; the rest validates
_PIECE_ROWS = 250  # of an evaluation, which bound its memory
_SHRUNK_ROWS = 10_000  # at once, for the same reason
_NUMPY_SEED = Range("it must be below 2**32 and not negative", lambda value: 0 <= value < 2**32)


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(BenchmarkConfig):
    mnist: str = option("data/mnist", "folder of MNIST", metavar="DIR", changeable=True)
    download: bool = option(False, "fetch MNIST into that folder", changeable=True)
    side: int = option(
        SIDE, "pixels of a side that images are shrunk to", within=between(2, SIDE), metavar="N"
    )
    permute: bool = option(False, "read the pixels in a fixed random order")
    permutation_seed: int = option(0, "seed of that order", within=_NUMPY_SEED)
    permutation_by_seed: bool = option(
        False, "let --seed choose the order as well, as the authors did"
    )
    permutation: str | None = option(
        None, "file with the order: every number of a pixel, from 0, once", metavar="FILE"
    )
    hidden_size: int = option(100, "units of the recurrent layer", within=AT_LEAST_ONE)
    epochs: int = option(200, "epochs to train", within=AT_LEAST_ONE, changeable=True)

    def contradictions(self) -> Iterable[str]:
        if self.permutation is not None and self.permutation_by_seed:
            yield "--permutation and --permutation-by-seed exclude each other; give one of them"
        if self.permutation_by_seed and not _NUMPY_SEED.holds(self.seed):
            yield f"--seed is {self.seed}; for a permutation {_NUMPY_SEED.words}"
        if self.batch_size > _TRAINING_IMAGES:
            yield f"--batch-size is {self.batch_size}; there are {_TRAINING_IMAGES:,} images"
        if self.updates is not None and self.updates > self.batches_per_epoch:
            yield (
                f"--updates is {self.updates}; an epoch has {self.batches_per_epoch:,} batches of "
                f"{self.batch_size} images"
            )

    @property
    def batches_per_epoch(self) -> int:
        return _TRAINING_IMAGES // self.batch_size

    @property
    def pixels(self) -> int:
        return self.side**2

    @property
    def permutes(self) -> bool:
        return self.permute or self.permutation_by_seed or self.permutation is not None


class PixelsTask(Task):
    name = "sequential_mnist"
    input_size = 1
    classes = CLASSES

    def __init__(self, config: PixelsConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self.permutation = permutation_of(config)
        self.updates_per_epoch = config.updates or config.batches_per_epoch
        folder = Path(config.mnist)
        images, labels = self._in_order(*load_mnist(folder, download=config.download))
        self.training = images[:_TRAINING_IMAGES], labels[:_TRAINING_IMAGES]
        self.validation = images[_TRAINING_IMAGES:], labels[_TRAINING_IMAGES:]
        self._test = self._in_order(*load_mnist(folder, train=False, download=config.download))

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        images, labels = self.training
        generator = derived_generator(self._config.seed, "order", epoch)
        shuffled = torch.randperm(len(images), generator=generator).to(self._device)
        batches = shuffled.split(self._config.batch_size)[: self.updates_per_epoch]
        for rows in batches[start:]:
            yield _steps(images[rows]), labels[rows]

    def loss(self, model: SequenceModel, batch: Batch, generator: torch.Generator) -> Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(
            model.sequence_logits(inputs, generator=generator), labels
        )

    def validate(self, model: SequenceModel) -> Figures:
        return evaluate(model, *self.validation)

    def tests(self) -> Mapping[str, Callable[[SequenceModel], Figures]]:
        return {"test": lambda model: evaluate(model, *self._test)}

    def fingerprint(self) -> dict[str, Any]:
        order = self.permutation.tolist() if self.permutation is not None else []
        return {
            "images": hashlib.sha256(self.training[0].cpu().numpy().tobytes()).hexdigest(),
            "permutation": hashlib.sha256(repr(order).encode()).hexdigest(),
        }

    def _in_order(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images as rows of pixels, in the order they are read: [N, pixels] uint8."""
        rows = shrunk(images, self._config.side).flatten(1)
        if self.permutation is not None:
            rows = rows[:, self.permutation]
        return rows.contiguous().to(self._device), labels.to(self._device)


def shrunk(images: Tensor, side: int) -> Tensor:
    """Return images of fewer pixels, each the rounded mean of those it covers.

    Shapes:
        images [N, 28, 28] uint8 -> [N, side, side] uint8.
    """
    if side == images.shape[-1]:
        return images
    pieces = [
        nn.functional.adaptive_avg_pool2d(some.float().unsqueeze(1), side).squeeze(1).round().byte()
        for some in images.split(_SHRUNK_ROWS)
    ]
    return torch.cat(pieces)


def permutation_of(config: PixelsConfig) -> Tensor | None:
    """Return the order in which pixels are read, None where it is that of the lines.

    Raises:
        DataError: the file is missing, or holds no permutation of the pixels.
    """
    if not config.permutes:
        return None
    if config.permutation is not None:
        return read_permutation(Path(config.permutation), config.pixels)
    seed = config.seed if config.permutation_by_seed else config.permutation_seed
    return torch.from_numpy(np.random.RandomState(seed).permutation(config.pixels))


def read_permutation(path: Path, pixels: int) -> Tensor:
    """Return the numbers in a text file, between them white space, commas or brackets.

    Raises:
        DataError: the file is missing, or its numbers are no permutation of so many pixels.
    """
    remedy = f"give a text file with the numbers 0 to {pixels - 1}, each once"
    try:
        words = path.read_text(encoding="utf-8").translate(str.maketrans("[],", "   ")).split()
        order = [int(word) for word in words]
    except OSError as problem:
        raise DataError(
            f"--permutation {path} cannot be read: {problem.strerror}; {remedy}"
        ) from problem
    except ValueError as problem:  # of int(), or of the encoding
        reason = str(problem).splitlines()[0]
        raise DataError(f"--permutation {path} holds no numbers: {reason}; {remedy}") from problem
    if len(order) != pixels:
        raise DataError(
            f"--permutation {path} holds {len(order):,} numbers, not {pixels}; {remedy}"
        )
    missing = sorted(set(range(pixels)) - set(order))
    if missing:
        raise DataError(
            f"--permutation {path} is no permutation: {missing[0]} is missing in it; {remedy}"
        )
    return torch.tensor(order)


@torch.no_grad()
def evaluate(model: SequenceModel, images: Tensor, labels: Tensor) -> Figures:
    """Return loss and accuracy on images, of which only a few are unfolded at a time."""
    loss = torch.zeros((), dtype=torch.float64, device=images.device)
    correct = torch.zeros((), dtype=torch.long, device=images.device)
    for rows, classes in zip(images.split(_PIECE_ROWS), labels.split(_PIECE_ROWS), strict=True):
        logits = model.sequence_logits(_steps(rows))
        loss += nn.functional.cross_entropy(logits, classes, reduction="sum")
        correct += (logits.argmax(1) == classes).sum()
    return {
        "accuracy": 100.0 * correct.item() / len(images),
        "loss": loss.item() / len(images),
    }


def _steps(images: Tensor) -> Tensor:
    """Return pixels as steps: [B, pixels] bytes -> [pixels, B, 1] between 0 and 1."""
    return images.t().contiguous().float().div_(255.0).unsqueeze(2)
