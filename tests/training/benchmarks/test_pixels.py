"""MNIST pixel by pixel: the order of the pixels, the split, loss and accuracy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.errors import DataError, OptionError
from training.benchmarks import pixels
from training.benchmarks.pixels import (
    PixelsConfig,
    PixelsTask,
    evaluate,
    permutation_of,
    read_permutation,
    shrunk,
)
from training.methods import load_method
from training.run_folder import RunFolder, read_metrics
from training.sequential_mnist import main

CPU = torch.device("cpu")


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> dict[bool, tuple[Tensor, Tensor]]:
    """Random images in the place of MNIST: 60,000 to train and validate, 50 to test."""
    generator = torch.Generator().manual_seed(3)
    drawn = {
        train: (
            torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8),
            torch.randint(0, 10, (count,), generator=generator),
        )
        for train, count in ((True, 60_000), (False, 50))
    }
    monkeypatch.setattr(pixels, "load_mnist", lambda _folder, *, train=True, **_: drawn[train])
    return drawn


def task_of(**options: Any) -> PixelsTask:
    return PixelsTask(PixelsConfig(**options), CPU)


def model_of(task: PixelsTask, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    loaded = load_method("lstm")
    method = loaded.method(1, 5, loaded.options(**options), generator=generator)
    return task.build_model(method, generator).eval()


def test_the_first_50000_train_and_the_rest_validates(images: Any) -> None:
    task = task_of()
    rows, labels = images[True][0].flatten(1), images[True][1]
    assert torch.equal(task.training[0], rows[:50_000])
    assert torch.equal(task.training[1], labels[:50_000])
    assert torch.equal(task.validation[0], rows[50_000:])
    assert torch.equal(task.validation[1], labels[50_000:])
    assert task.updates_per_epoch == 500


def test_an_epoch_meets_every_image_once_in_an_order_of_its_own(images: Any) -> None:
    task = task_of(batch_size=10_000)

    def labels_of(epoch: int, start: int = 0) -> Tensor:
        return torch.cat([labels for _, labels in task.batches(epoch, start=start)])

    once, expected = labels_of(0), torch.bincount(images[True][1][:50_000])
    assert torch.equal(torch.bincount(once), expected)
    assert torch.equal(once[30_000:], labels_of(0, start=3))
    assert not torch.equal(once, labels_of(1))
    inputs, _ = next(task.batches(0))
    assert inputs.shape == (784, 10_000, 1)
    assert (inputs.min().item(), inputs.max().item()) == (0.0, 1.0)


def test_a_smaller_side_means_over_pixels(images: Any) -> None:
    task = task_of(side=14, permute=True)
    order = np.random.RandomState(0).permutation(196)
    for number in (0, 59_999):
        image = images[True][0][number].numpy().astype(float)
        means = [
            image[y : y + 2, x : x + 2].mean() for y in range(0, 28, 2) for x in range(0, 28, 2)
        ]
        part = task.training if number < 50_000 else task.validation
        found = part[0][number % 50_000].numpy()
        assert np.abs(found - np.array(means)[order]).max() <= 0.5
    inputs, _ = next(task.batches(0))
    assert inputs.shape == (196, 100, 1)
    uneven = shrunk(images[True][0][:3], 5).float()
    assert uneven[:, 0, 0].tolist() == pytest.approx(
        images[True][0][:3, :6, :6].float().mean((1, 2)).tolist(), abs=0.51
    )


def test_permuted_pixels_come_in_numpys_order_apart_from_the_seed(images: Any) -> None:
    order = np.random.RandomState(5).permutation(784)
    rows = images[True][0].flatten(1)[:50_000]
    for seed in (0, 1):
        task = task_of(permute=True, permutation_seed=5, seed=seed)
        assert torch.equal(task.training[0][:3], rows[:3, torch.from_numpy(order)])


@pytest.mark.parametrize(
    ("seed", "first"), [(150, [176, 32, 363, 605, 548]), (250, [664, 629, 338])]
)
def test_the_authors_order_is_that_of_the_seed(seed: int, first: list[int]) -> None:
    # Their best runs had these two seeds; the numbers are what NumPy draws first after them.
    order = permutation_of(PixelsConfig(permutation_by_seed=True, seed=seed))
    assert order is not None
    assert order[: len(first)].tolist() == first
    assert permutation_of(PixelsConfig(seed=seed)) is None


@pytest.mark.parametrize("form", ["{}", "[{}]\n"])
def test_an_order_can_come_from_a_file(form: str, tmp_path: Path) -> None:
    path = tmp_path / "order.txt"
    order = list(reversed(range(784)))
    path.write_text(form.format(", ".join(map(str, order))))
    config = PixelsConfig(permutation=str(path))
    assert config.permutes
    found = permutation_of(config)
    assert found is not None
    assert found.tolist() == order


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "holds 3 numbers, not 784"),
        (" ".join(["0"] * 784), "is no permutation: 1 is missing"),
        (" ".join(map(str, range(1, 785))), "is no permutation: 0 is missing"),
        ("one two", "holds no numbers"),
        ("", "holds 0 numbers"),
    ],
)
def test_what_is_no_permutation_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "order.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_permutation(path, 784)
    assert "give a text file with the numbers 0 to 783" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_permutation(tmp_path / "none.txt", 784)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="holds no numbers"):
        read_permutation(tmp_path / "binary", 784)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        PixelsConfig(permutation="x", permutation_by_seed=True)
    with pytest.raises(OptionError, match=r"--permutation-seed is -1; it must be below 2\*\*32"):
        PixelsConfig(permutation_seed=-1)
    with pytest.raises(OptionError, match=r"--batch-size is 60000; there are 50,000 images"):
        PixelsConfig(batch_size=60_000)
    with pytest.raises(OptionError, match=r"--updates is 501; an epoch has 500 batches of 100"):
        PixelsConfig(updates=501)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_loss_and_accuracy_are_those_of_one_image_at_a_time(
    images: Any, bidirectional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_PIECE_ROWS", 7)
    task = task_of()
    model = model_of(task, bidirectional=bidirectional)
    rows, labels = images[False][0].flatten(1)[:20], images[False][1][:20]
    losses, hits = [], []
    twin, head = reader_twin(model.method.lstm), model.head
    for row, label in zip(rows, labels, strict=True):
        x = (row.float() / 255).view(784, 1, 1)
        outputs, _ = twin(x)
        seen = outputs[-1]
        if bidirectional:  # the second half has read everything at the first step
            seen = torch.cat([outputs[-1, :, :5], outputs[0, :, 5:]], dim=1)
        probabilities = head(seen).softmax(1)[0]
        losses.append(-probabilities[label].log().item())
        hits.append(probabilities.argmax().item() == label.item())
    figures = evaluate(model, rows, labels)
    assert figures["loss"] == pytest.approx(sum(losses) / 20, rel=1e-5)
    assert figures["accuracy"] == pytest.approx(100 * sum(hits) / 20)
    batch = (rows.t().float().div(255).unsqueeze(2), labels)
    assert task.loss(model, batch, torch.Generator()).item() == pytest.approx(
        sum(losses) / 20, rel=1e-5
    )


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 training images, 10 to validate and 10 to test, in the place of MNIST."""
    generator = torch.Generator().manual_seed(3)

    def load(_folder: Path, *, train: bool = True, **_: Any) -> tuple[Tensor, Tensor]:
        count = 40 if train else 10
        drawn = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        return drawn, torch.arange(count) % 10

    monkeypatch.setattr(pixels, "load_mnist", load)
    monkeypatch.setattr(pixels, "_TRAINING_IMAGES", 30)


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    "options",
    [
        ["--permute", "--p", "0.25"],
        ["--bidirectional", "--layers", "2", "--layer-masks", "independent", "--p", "0.5"],
        ["--cell-p", "0.25", "--clip", "0"],
    ],
)
def test_a_run_tests_its_best_model_once(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--hidden-size", "4", "--epochs", "2", "--batch-size", "10", "--device", "cpu"]
    assert main([*words, *options, "--out", "run"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["updates"] == 6
    assert result["tests"].keys() == {"test"}
    kinds = [line["kind"] for line in read_metrics(RunFolder(tmp_path / "run"))]
    assert kinds == ["train", "validation", "train", "validation", "test"]


def reader_twin(reader: Any) -> torch.nn.LSTM:
    """Return PyTorch's own LSTM with the same weights."""
    twin = torch.nn.LSTM(1, 5, bidirectional=reader.bidirectional)
    twin.load_state_dict(reader.state_dict())
    return twin
