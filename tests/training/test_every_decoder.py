"""Every decoder is trained with its encoder, resumed bit for bit, and trained for the score."""

from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.decoders import DECODERS
from captioner.files import file_hash
from training.run_folder import RunFolder, read_metrics

# What is tested elsewhere, at length, and what has nothing to detach.
WITHOUT_H_DETACH = ("neuraltalk",)
NEW = sorted({*DECODERS} - {"soft_attention", "show_tell"})


@pytest.mark.parametrize("name", NEW)
def test_a_resumed_run_ends_with_the_same_weights_and_goes_on_to_the_score(
    name: str, tiny: list[str], train_here: Callable[..., int], tmp_path: Path
) -> None:
    p = "0" if name in WITHOUT_H_DETACH else "0.4"
    words = [*tiny, "--decoder", name, "--p", p, "--fine-tune-encoder", "1"]
    assert train_here(*words, "--epochs", "2", "--out", "whole") == 0
    assert train_here(*words, "--epochs", "1", "--out", "run") == 0
    assert train_here("--resume", "run", "--epochs", "2") == 0
    for part in ("decoder", "encoder", "optimiser", "generators"):
        file = f"last/{part}.safetensors"
        assert file_hash(tmp_path / "run" / file) == file_hash(tmp_path / "whole" / file), part
    losses = [line["loss"] for line in read_metrics(RunFolder(tmp_path / "run")) if "lr" in line]
    assert losses[-1] < losses[0]

    data = tiny[tiny.index("--data") :][:2]
    score = ["--objective", "self_critical", "--start-from", "run/best", "--p", p]
    assert train_here(*score, *data, "--samples", "2", "--epochs", "1", "--out", "scored") == 0
    line = next(one for one in read_metrics(RunFolder(tmp_path / "scored")) if "lr" in one)
    assert line["reward"] >= 0
    before, after = (
        file_hash(tmp_path / run / "decoder.safetensors") for run in ("run/best", "scored/last")
    )
    assert before != after
