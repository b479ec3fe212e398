"""Copying task: digits, a long delay, and the digits again.

A sequence of delay + 2 * symbols steps holds `symbols` digits 1..8, delay - 1 blanks (0), one
delimiter (9) and `symbols` blanks. The target is blank except for the last `symbols` steps, which
are the digits. The loss is the mean cross-entropy of all steps, the accuracy that of the last ones.
Inputs are the numbers themselves, one scalar per step, as in the authors' code (Kanuparthi, Arpit
et al., ICLR 2019), or one-hot as in Arjovsky et al. 2016. Transfer tests a trained model on longer
delays.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.options import AT_LEAST_ONE, option
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Batch, SequenceModel, Task
from training.methods import RecurrentMethod
from training.randomness import derived_generator
from training.work import Figures

DIGITS = 8  # different ones
DELIMITER = DIGITS + 1
CLASSES = DIGITS + 1  # the digits and the blank
_TRAINING_SEQUENCES, _HELD_OUT_SEQUENCES = 100_000, 5_000
_UPDATES = 1_000  # in an epoch, drawn with replacement
_TRANSFER_SEED = 555  # of the authors' script; apart from the run's, so that models compare
_PIECE_ROWS, _PIECE_STEPS = 500, 250  # of an evaluation, which bound its memory


@dataclass(frozen=True, kw_only=True)
class CopyingConfig(BenchmarkConfig):
    delay: int = option(
        100, "steps between the last digit and the first to be recalled", within=AT_LEAST_ONE
    )
    symbols: int = option(10, "digits to be copied", within=AT_LEAST_ONE)
    one_hot: bool = option(False, "feed one-hot vectors instead of one number a step")
    transfer: tuple[int, ...] = option(
        (), "delays that the best model is tested at", within=AT_LEAST_ONE, changeable=True
    )


class CopyingTask(Task):
    name = "copying"
    classes = CLASSES
    latest_tie_wins = True

    def __init__(self, config: CopyingConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self.input_size = DELIMITER + 1 if config.one_hot else 1
        self.updates_per_epoch = config.updates or _UPDATES
        generator = derived_generator(config.seed, "data")
        self.training = self._draw(_TRAINING_SEQUENCES, generator)
        self.validation = self._draw(_HELD_OUT_SEQUENCES, generator)

    def build_model(self, method: RecurrentMethod, generator: torch.Generator) -> SequenceModel:
        if not method.is_causal:
            raise OptionError(
                "--bidirectional is for sequences that are classified as a whole; copying is "
                "evaluated piece by piece, from the beginning: leave it out"
            )
        return super().build_model(method, generator)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        config = self._config
        generator = derived_generator(config.seed, "order", epoch)
        chosen = torch.randint(
            len(self.training),
            (self.updates_per_epoch, config.batch_size),
            generator=generator,
        ).to(self._device)
        for rows in chosen[start:]:
            yield self.sequences(self.training[rows], config.delay)

    def sequences(
        self, digits: Tensor, delay: int, start: int = 0, stop: int | None = None
    ) -> Batch:
        """Return the steps `start` to `stop` (default: all) of the sequences with these digits.

        Shapes:
            digits [B, S] uint8 -> inputs [T, B, 1], or [T, B, 10] one-hot; targets [T, B].
        """
        rows, symbols = digits.shape
        recall = symbols + delay  # the first step that is asked for a digit
        stop = recall + symbols if stop is None else stop
        tokens = torch.zeros(stop - start, rows, dtype=torch.long, device=digits.device)
        targets = torch.zeros_like(tokens)
        in_order = digits.t().long()
        if start < symbols:
            tokens[: symbols - start] = in_order[start:stop]
        if start < recall <= stop:
            tokens[recall - 1 - start] = DELIMITER
        if stop > recall:
            first = max(start, recall)
            targets[first - start :] = in_order[first - recall : stop - recall]
        if self._config.one_hot:
            return nn.functional.one_hot(tokens, DELIMITER + 1).float(), targets
        return tokens.float().unsqueeze(2), targets

    def loss(self, model: SequenceModel, batch: Batch, generator: torch.Generator) -> Tensor:
        inputs, targets = batch
        logits, _ = model.step_logits(inputs, generator=generator)
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def validate(self, model: SequenceModel) -> Figures:
        return self.evaluate(model, self.validation, self._config.delay)

    def tests(self) -> Mapping[str, Callable[[SequenceModel], Figures]]:
        return {
            f"delay_{delay}": partial(self._transfer, delay=delay)
            for delay in self._config.transfer
        }

    @torch.no_grad()
    def evaluate(self, model: SequenceModel, digits: Tensor, delay: int) -> Figures:
        """Return loss and accuracy; memory depends neither on the delay nor on the sequences."""
        steps = delay + 2 * digits.shape[1]
        recall = steps - digits.shape[1]
        loss = torch.zeros((), dtype=torch.float64, device=digits.device)
        correct = torch.zeros((), dtype=torch.long, device=digits.device)
        for rows in digits.split(_PIECE_ROWS):
            state = None
            for start in range(0, steps, _PIECE_STEPS):
                stop = min(start + _PIECE_STEPS, steps)
                inputs, targets = self.sequences(rows, delay, start, stop)
                logits, state = model.step_logits(inputs, state)
                loss += nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), reduction="sum"
                )
                asked = max(recall - start, 0)
                correct += (logits[asked:].argmax(2) == targets[asked:]).sum()
        return {
            "accuracy": 100.0 * correct.item() / digits.numel(),
            "loss": loss.item() / (steps * len(digits)),
        }

    def _transfer(self, model: SequenceModel, *, delay: int) -> Figures:
        fresh = self._draw(
            _HELD_OUT_SEQUENCES, derived_generator(_TRANSFER_SEED, "transfer", delay)
        )
        return self.evaluate(model, fresh, delay)

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw digits: [count, symbols], one byte each."""
        size = (count, self._config.symbols)
        drawn = torch.randint(1, DIGITS + 1, size, generator=generator, dtype=torch.uint8)
        return drawn.to(self._device)
