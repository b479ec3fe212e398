"""A new run that begins with the weights, the words and the sizes of another run's checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import load_checkpoint

TrainHere = Callable[..., int]


def test_a_run_starts_with_the_weights_of_another_and_may_train_its_encoder(
    trained: Path, tiny: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    place = [*tiny[tiny.index("--data") :], "--device", "cpu", "--threads", "1", "--workers", "1"]
    words = [*place, "--start-from", str(trained), "--fine-tune-encoder", "1", "--epochs", "1"]
    still = ["--lr", "1e-9", "--encoder-lr", "1e-9", "--average-decay", "0"]
    assert train_here(*words, *still, "--out", "second") == 0
    before, after = load_checkpoint(trained), load_checkpoint(tmp_path / "second" / "best")
    assert after.vocabulary == before.vocabulary
    assert after.decoder.options == before.decoder.options
    for name, weight in before.decoder.state_dict().items():
        torch.testing.assert_close(after.decoder.state_dict()[name], weight, rtol=0, atol=1e-6)
    for name, weight in before.encoder.named_parameters():
        torch.testing.assert_close(
            after.encoder.get_parameter(name), weight.detach(), rtol=0, atol=1e-6
        )
    assert train_here(*words, "--lr", "0.01", "--encoder-lr", "0.01", "--out", "third") == 0
    moved = load_checkpoint(tmp_path / "third" / "best")
    last = list(before.encoder.named_parameters())[-1][0]
    assert not torch.equal(moved.encoder.get_parameter(last), before.encoder.get_parameter(last))


def test_an_option_that_the_checkpoint_contradicts_is_refused(
    trained: Path, tiny: list[str], train_here: TrainHere, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, "--start-from", str(trained), "--hidden-size", "17", "--out", "second"]
    assert train_here(*words) == 2
    assert f"--hidden-size is 17 and that of {trained} is 16" in capsys.readouterr().err
    assert not Path("second").exists()
