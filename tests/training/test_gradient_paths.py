"""The study of an LSTM's gradient at a size of seconds: what it writes, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioner.errors import TrainingError
from training.gradient_paths import (
    DETACH,
    SCALES,
    Copier,
    PathsOptions,
    compute,
    copying_batch,
    main,
    measure,
    share,
)

TINY = [
    *("--hidden-size", "6", "--lags", "9", "--draws", "3", "--digits", "2", "--delay", "3"),
    *("--updates", "7", "--measurements", "3", "--batch-size", "4", "--threads", "1"),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(out: Path, *words: str) -> dict:
    assert main([*TINY, "--out", str(out), *words]) == 0
    return json.loads((out / "gradient_paths.json").read_text())


def test_a_run_writes_a_picture_and_its_figures(tmp_path, capsys):
    figures = run(tmp_path / "new" / "folder")
    with Image.open(tmp_path / "new" / "folder" / "gradient_paths.png") as picture:
        picture.load()
        assert min(picture.size) > 500
    assert figures["config"]["updates"] == 7
    assert [item["scale"] for item in figures["untrained"]] == list(SCALES)
    assert [item["update"] for item in figures["training"]] == [0, 2, 5, 7]
    for item in (*figures["untrained"], *figures["training"]):
        assert set(item["shares"]) == set(item["rest"]) == {f"{p:g}" for p in DETACH}
        assert item["rest"]["0"][0] == 0
        middle = [item["shares"][f"{p:g}"][len(item["shares"]["0"]) // 2] for p in DETACH]
        assert middle == sorted(middle)  # the more is detached, the more of the rest is cell part
    assert "an LSTM in training: 7/7 updates" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "gradient_paths.json",
        "gradient_paths.png",
    ]


def test_the_seed_decides_every_figure():
    sizes = {"hidden_size": 6, "lags": 9, "draws": 2, "digits": 2, "delay": 3, "updates": 5}
    first, again, other = (compute(PathsOptions(**sizes, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first["untrained"] != other["untrained"]
    assert first["training"] != other["training"]


def test_what_is_measured_adds_up_to_the_gradient_of_the_task():
    config = PathsOptions(hidden_size=5, digits=2, delay=4, lags=6)
    model = Copier(5, torch.Generator().manual_seed(1))
    inputs, targets = copying_batch(config, 3, torch.Generator().manual_seed(2))
    outputs, _ = model.lstm(inputs)
    outputs.retain_grad()
    model.loss_of(outputs, targets).backward()
    measured = measure(inputs, list(model.lstm.parameters()), outputs.grad)
    # The norm of a sum lies between the difference and the sum of the norms, lag by lag.
    parts = [*measured["cell"], *measured["rest"]["0"]]
    whole = float(model.lstm.weight_hh_l0.grad.norm())
    assert max(parts) - (sum(parts) - max(parts)) <= whole <= sum(parts)
    assert share(measured, 0.0, 0) == 1.0
    assert 0 < share(measured, 0.0, 3) < share(measured, 0.5, 3) < 1


def test_the_copying_task_is_what_it_says():
    config = PathsOptions(digits=3, delay=5, lags=8)
    inputs, targets = copying_batch(config, 4, torch.Generator().manual_seed(0))
    assert inputs.shape == (11, 4, 10)
    symbols = inputs.argmax(dim=2)
    assert torch.equal(symbols[:3], targets[-3:])  # 8 steps later: digits + delay
    assert symbols[:3].min() >= 1
    assert (symbols[7] == 9).all()  # the signal, one step before the recall
    assert not targets[:-3].any()
    assert config.lag == 8


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--updates", "0"], "--updates is 0; it must be at least 1"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--threads", "none"], "argument --threads: invalid int value: 'none'; --help lists"),
        (
            ["--learning-rate", "nan"],
            "--learning-rate is nan; it must be a finite number",
        ),
        (["--lags", "3"], "--lags is 3; it must be at least 5, the time between a symbol"),
        (["--lag", "3"], "unrecognized arguments: --lag 3"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, complaint, tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path / "out"), *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"gradient_paths.py: {complaint}")
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_a_file_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*TINY, "--out", str(tmp_path / "file" / "below")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a folder; give another place" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_gradient_that_is_no_number_is_one_line():
    weights = [torch.ones(4, 1), torch.ones(4, 1), torch.ones(4), torch.ones(4)]
    with pytest.raises(TrainingError, match=r"beyond the largest float32; give fewer --lags, or"):
        measure(torch.ones(3, 1, 1), weights, torch.full((3, 1, 1), float("inf")))
