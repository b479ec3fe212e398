"""The copying task against a generator and a loop that are plain Python."""

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from training.benchmarks.copying import CopyingConfig, CopyingTask
from training.benchmarks.task import SequenceModel
from training.methods import load_method

CPU = torch.device("cpu")


def task_of(**options: Any) -> CopyingTask:
    return CopyingTask(CopyingConfig(**options), CPU)


def model_of(task: CopyingTask, hidden_size: int = 6, seed: int = 1) -> SequenceModel:
    generator = torch.Generator().manual_seed(seed)
    loaded = load_method("lstm")
    method = loaded.method(task.input_size, hidden_size, loaded.options(), generator=generator)
    return task.build_model(method, generator)


def naive_sequence(digits: list[int], delay: int) -> tuple[list[int], list[int]]:
    """Return inputs and targets as the paper describes them, renamed as its code has them."""
    inputs = [*digits, *[0] * (delay - 1), 9, *[0] * len(digits)]
    targets = [*[0] * (len(digits) + delay), *digits]
    assert len(inputs) == len(targets) == delay + 2 * len(digits)
    return inputs, targets


@pytest.mark.parametrize(("symbols", "delay"), [(10, 100), (3, 10), (1, 1), (4, 2), (2, 1)])
def test_sequences_are_those_of_a_naive_generator(symbols: int, delay: int) -> None:
    task, chance = task_of(symbols=symbols, delay=delay), random.Random(symbols)
    rows = [[chance.randint(1, 8) for _ in range(symbols)] for _ in range(5)]
    inputs, targets = task.sequences(torch.tensor(rows, dtype=torch.uint8), delay)
    for column, digits in enumerate(rows):
        naive = naive_sequence(digits, delay)
        assert inputs[:, column, 0].tolist() == naive[0]
        assert targets[:, column].tolist() == naive[1]


def test_every_piece_of_a_sequence_is_a_piece_of_the_whole() -> None:
    task = task_of(symbols=3, delay=4)
    digits = task.training[:2]
    inputs, targets = task.sequences(digits, 4)
    for start in range(10):
        for stop in range(start + 1, 11):
            piece, asked = task.sequences(digits, 4, start, stop)
            assert torch.equal(piece, inputs[start:stop])
            assert torch.equal(asked, targets[start:stop])


def test_one_hot_inputs_mark_the_same_numbers() -> None:
    plain, one_hot = task_of(delay=5), task_of(delay=5, one_hot=True)
    assert (plain.input_size, one_hot.input_size) == (1, 10)
    numbers, _ = plain.sequences(plain.training[:4], 5)
    vectors, _ = one_hot.sequences(one_hot.training[:4], 5)
    assert vectors.shape == (25, 4, 10)
    assert torch.equal(vectors.sum(2), torch.ones(25, 4))
    assert torch.equal(vectors.argmax(2), numbers.squeeze(2).long())


def test_digits_are_the_eight_and_about_equally_often() -> None:
    task = task_of()
    assert task.training.shape == (100_000, 10)
    assert task.validation.shape == (5_000, 10)
    counts = torch.bincount(task.training.flatten().long(), minlength=10)
    assert counts[[0, 9]].tolist() == [0, 0]
    deviations = (counts[1:9] - 125_000).abs() / math.sqrt(1e6 * 1 / 8 * 7 / 8)
    assert deviations.max() < 5


def test_data_and_order_depend_on_the_seed_and_the_epoch_alone() -> None:
    def first_batches(seed: int, epoch: int, start: int = 0) -> list[Tensor]:
        task = task_of(seed=seed, delay=2, symbols=4, updates=3, batch_size=7)
        return [inputs for inputs, _ in task.batches(epoch, start=start)]

    once = first_batches(1, 0)
    assert [batch.shape for batch in once] == [(10, 7, 1)] * 3
    assert all(map(torch.equal, once, first_batches(1, 0)))
    assert all(map(torch.equal, once[2:], first_batches(1, 0, start=2)))
    assert not torch.equal(once[0], first_batches(2, 0)[0])
    assert not torch.equal(once[0], first_batches(1, 1)[0])


def naive_figures(model: SequenceModel, digits: Tensor, delay: int) -> tuple[float, float]:
    """Return loss and accuracy by a loop over sequences, steps and classes."""
    losses, hits = [], []
    for row in digits.tolist():
        inputs, targets = naive_sequence(row, delay)
        logits, _ = model.step_logits(torch.tensor(inputs).float().view(-1, 1, 1))
        for t, (scores, target) in enumerate(zip(logits[:, 0].tolist(), targets, strict=True)):
            normaliser = math.log(sum(math.exp(score) for score in scores))
            losses.append(normaliser - scores[target])
            if t >= len(targets) - len(row):
                hits.append(scores.index(max(scores)) == target)
    return sum(losses) / len(losses), 100 * sum(hits) / len(hits)


def test_loss_and_accuracy_are_those_of_a_naive_loop() -> None:
    task = task_of(delay=6, symbols=3)
    model = model_of(task)
    with torch.no_grad():  # so that answers vary, and some are right
        model.head.weight.mul_(8)
        model.method.lstm.weight_ih_l0.mul_(4)
        model.head.bias[0] -= 9
    digits = task.validation[:40]
    loss, accuracy = naive_figures(model, digits, 6)
    assert 0 < accuracy < 100
    figures = task.evaluate(model, digits, 6)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["accuracy"] == pytest.approx(accuracy)
    batch = task.sequences(digits, 6)
    assert task.loss(model, batch, torch.Generator()).item() == pytest.approx(loss, rel=1e-5)


def test_evaluation_in_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(delay=9, symbols=4)
    model, digits = model_of(task), task.validation[:30]
    whole = task.evaluate(model, digits, 9)
    for rows, steps in [(7, 5), (30, 1), (1, 17), (8, 13)]:
        monkeypatch.setattr("training.benchmarks.copying._PIECE_ROWS", rows)
        monkeypatch.setattr("training.benchmarks.copying._PIECE_STEPS", steps)
        pieces = task.evaluate(model, digits, 9)
        assert pieces["accuracy"] == whole["accuracy"]
        assert pieces["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_a_delay_of_5000_is_read_in_pieces_no_larger_than_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = task_of()
    model = model_of(task)
    sizes = []

    def watched(x: Tensor, state: Any) -> Any:
        sizes.append(x.shape[:2])
        return torch.zeros(*x.shape[:2], 9), state

    monkeypatch.setattr(model, "step_logits", watched)
    figures = task.evaluate(model, task.validation[:510], 5_000)
    assert figures["loss"] == pytest.approx(math.log(9))
    assert sum(steps * rows for steps, rows in sizes) == 5_020 * 510
    assert max(steps for steps, _ in sizes) <= 250
    assert max(rows for _, rows in sizes) <= 500
