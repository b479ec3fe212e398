"""Language modelling: what is read, what is asked, and that the state is carried and kept."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from captioner.errors import DataError, OptionError
from training import word_language_model
from training.benchmarks.text import TextConfig, TextTask, read_words, vocabulary_of
from training.methods import load_method, method_names

CPU = torch.device("cpu")
SMALL = {"batch_size": 3, "steps": 4, "embedding_size": 5, "hidden_size": 6, "dropout": 0.0}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """200 lines of three words, the third of which is told by the first two."""
    path = tmp_path / "text.txt"
    lines = [f"a{n % 3} b{n % 2} c{n % 3}{n % 2}" for n in range(200)]
    path.write_text("\n\n".join(lines))
    return path


def task_of(text: Path, **options: Any) -> TextTask:
    return TextTask(TextConfig(text=str(text), **{**SMALL, **options}), CPU)


def model_of(task: TextTask, name: str = "lstm", **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    loaded = load_method(name)
    method = loaded.method(5, 6, loaded.options(**options), generator=generator)
    return task.build_model(method, generator)


def test_words_and_line_ends_are_read_and_rare_words_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat\n\n  the dog  \n")
    assert read_words(path) == ["the", "cat", "<eos>", "the", "dog", "<eos>"]
    assert vocabulary_of(read_words(path), 2) == ["<unk>", "<eos>", "the"]
    assert vocabulary_of(["<unk>", "<unk>", "x"], 1) == ["<unk>", "x"]


def test_an_epoch_asks_for_every_word_but_the_first_of_each_column(text: Path) -> None:
    task = task_of(text)
    words = read_words(text)[:640]
    columns = [words[n * 213 : (n + 1) * 213] for n in range(3)]
    batches = list(task.batches(0))
    assert len(batches) == task.updates_per_epoch == 53
    for column in range(3):
        inputs = [task.vocabulary[n] for x, _ in batches for n in x[:, column]]
        targets = [task.vocabulary[n] for _, y in batches for n in y[:, column]]
        assert inputs == columns[column][:-1]
        assert targets == columns[column][1:]
    for whole, rest in zip(batches[7:], task.batches(0, start=7), strict=True):
        assert torch.equal(whole[0], rest[0])


@pytest.mark.parametrize("name", method_names())
def test_the_state_is_carried_without_its_gradient(text: Path, name: str) -> None:
    task, draws = task_of(text), torch.Generator().manual_seed(0)
    options = {"zoneout": {"zoneout_c": 0.0, "zoneout_h": 0.0}}.get(name, {})
    model = model_of(task, name, **options)
    losses = [
        task.loss(model, batch, draws) for batch, _ in zip(task.batches(0), "123", strict=False)
    ]
    inputs, targets = (torch.cat(parts) for parts in zip(*list(task.batches(0))[:3], strict=True))
    logits, _ = model.step_logits(inputs)
    expected = [
        nn.functional.cross_entropy(a.flatten(0, 1), b.flatten())
        for a, b in zip(logits.split(4), targets.split(4), strict=True)
    ]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected))
    losses[2].backward()  # frees its graph, which must not be the first one's too
    losses[0].backward()


def test_every_epoch_begins_without_a_state(text: Path) -> None:
    task, draws = task_of(text), torch.Generator()
    model = model_of(task)
    first = task.loss(model, next(task.batches(0)), draws)
    again = task.loss(model, next(task.batches(0)), draws)
    carried = task.loss(model, next(task.batches(0, start=1)), draws)
    assert torch.equal(first, again)
    assert task.memory()
    fresh = task_of(text)
    fresh_loss = fresh.loss(model, next(fresh.batches(0, start=1)), draws)
    assert not torch.equal(carried, fresh_loss)


@pytest.mark.parametrize("name", method_names())
def test_what_is_carried_survives_a_resume(text: Path, name: str) -> None:
    task, draws = task_of(text), torch.Generator().manual_seed(0)
    model = model_of(task, name)
    batches = task.batches(0)
    for _ in range(3):
        task.loss(model, next(batches), draws)
    kept = {key: value.clone() for key, value in task.memory().items()}
    before = draws.get_state()
    expected = task.loss(model, next(batches), draws)
    resumed = task_of(text)
    resumed.restore_memory(kept)
    draws.set_state(before)
    assert torch.equal(resumed.loss(model, next(resumed.batches(0, start=3)), draws), expected)


def test_perplexity_is_that_of_a_loop_over_the_words(text: Path) -> None:
    task = task_of(text)
    model = model_of(task).eval()
    columns = task.validation
    total = 0.0
    for column in range(columns.shape[1]):
        logits, _ = model.step_logits(columns[:-1, column : column + 1])
        chances = logits.squeeze(1).log_softmax(1)
        for position, word in enumerate(columns[1:, column].tolist()):
            total -= chances[position, word].item()
    expected = math.exp(total / columns[1:].numel())
    assert task.validate(model)["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(task.classes, rel=0.2)  # it has learned nothing yet
    assert not task.higher_is_better


def test_dropout_depends_on_the_seed_and_not_on_p(text: Path) -> None:
    def losses(p: float, seed: int) -> list[float]:
        task = task_of(text, dropout=0.5, seed=seed)
        model, draws = model_of(task, p=p), torch.Generator().manual_seed(0)
        return [task.loss(model, batch, draws).item() for batch in task.batches(0)]

    assert losses(0.0, 1) == losses(0.5, 1)
    assert losses(0.0, 1) != losses(0.0, 2)


def test_a_small_model_learns_what_the_text_repeats(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--batch-size", "3", "--steps", "12", "--embedding-size", "8", "--hidden-size", "16"]
    rest = ["--dropout", "0", "--lr", "0.02", "--epochs", "5", "--p", "0.25", "--threads", "1"]
    options = [*sizes, *rest, "--device", "cpu"]
    out = tmp_path / "run"
    assert word_language_model.main(["--text", str(text), "--out", str(out), *options]) == 0
    assert "test: perplexity 1." in capsys.readouterr().out  # of 12 words
    assert word_language_model.main(["--resume", str(out), "--epochs", "6"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe\x00word", "is not UTF-8 (byte 0)"),
        (b" \n \n", "has no words"),
        (b"only a few words", "a part of the text has 4 words, too few for --batch-size 20"),
    ],
)
def test_a_bad_text_is_one_line_and_leaves_nothing(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "text.txt", tmp_path / "run"
    if content is not None:
        path.write_bytes(content)
    assert word_language_model.main(["--text", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_what_does_not_go_together_is_refused(text: Path) -> None:
    with pytest.raises(OptionError, match="--text is missing"):
        TextConfig()
    with pytest.raises(OptionError, match="--bidirectional would let the model read the word"):
        model_of(task_of(text), bidirectional=True)
    with pytest.raises(DataError, match="too few for --batch-size 500"):
        task_of(text, batch_size=500)
