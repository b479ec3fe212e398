"""The study of vanishing gradients at a size of seconds: its figures, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from captioner.progress import Progress
from training.randomness import derived_generator
from training.vanishing_gradients import (
    Images,
    Reader,
    VanishingOptions,
    compute,
    deep_network,
    main,
    train_deep,
    train_reader,
)

TINY = [
    *("--depth", "6", "--width", "12", "--updates", "9", "--batch-size", "16", "--threads", "1"),
    *("--hidden-size", "8", "--steps", "28", "--sequence-updates", "3"),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (80, 784), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (80,), generator=generator))


def quiet() -> Progress:
    return Progress(None, "", enabled=False)


def run(shared_data: Path, out: Path, *words: str) -> dict:
    mnist = str(shared_data / "data" / "mnist")
    assert main([*TINY, "--mnist", mnist, "--out", str(out), *words]) == 0
    return json.loads((out / "vanishing_gradients.json").read_text())


def test_a_run_writes_a_picture_and_its_figures(shared_data, tmp_path, capsys):
    figures = run(shared_data, tmp_path / "a", "--seed", "2")
    with Image.open(tmp_path / "a" / "vanishing_gradients.png") as picture:
        picture.load()
        assert min(picture.size) > 500
    assert len(figures["deep"]) == 6
    for found in figures["deep"].values():
        assert found["updates"] == list(range(1, 10))
        assert {len(norms) for norms in found["norms"]} == {7}  # layers
    first = figures["deep"]["sigmoid"]["norms"][0]
    assert first[1] < 1e-2 * first[-1]
    tanh = figures["deep"]["tanh"]["norms"][0]
    assert tanh[1] > 0.1 * tanh[-1]
    for snapshots in figures["sequences"].values():
        assert [item["update"] for item in snapshots] == [0, 1, 2, 3]
        assert {len(item["norms"]) for item in snapshots} == {28}
    assert "deep networks: 54/54 updates" in capsys.readouterr().err


def test_the_seed_decides_every_figure(images):
    sizes = {"depth": 2, "width": 5, "updates": 3, "hidden_size": 4, "steps": 7}
    first, again, other = (
        compute(VanishingOptions(**sizes, sequence_updates=2, seed=seed), images)
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first["deep"] != other["deep"]
    assert first["sequences"] != other["sequences"]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "ReLU"])
def test_norms_are_those_of_the_gradient_that_is_used(activation, images):
    config = VanishingOptions(depth=3, width=9, updates=1, batch_size=80, clip_norm=0.25)
    plain, clipped = (
        train_deep(config, images, activation, clips=clips, progress=quiet())
        for clips in (False, True)
    )
    network = deep_network(config, activation, derived_generator(0, activation))
    pixels, labels = images.batch(80, derived_generator(0, "batches"))
    loss = nn.functional.cross_entropy(network((pixels - 0.1307) / 0.3081), labels)
    loss.backward()
    weights = [
        parameter.grad.norm()
        for name, parameter in network.named_parameters()
        if name.endswith("weight")
    ]
    total = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm()
    assert total > 0.25
    assert plain["norms"][0] == pytest.approx([float(norm) for norm in weights], rel=1e-5)
    assert clipped["norms"][0] == pytest.approx(
        [float(norm / total * 0.25) for norm in weights], rel=1e-4
    )
    assert plain["loss"] == pytest.approx([loss.item()])


def test_a_network_that_diverges_stops_there(images):
    config = VanishingOptions(depth=6, width=9, updates=30, learning_rate=10.0)
    found = train_deep(config, images, "ReLU", clips=False, progress=quiet())
    assert len(found["loss"]) == len(found["norms"]) == 3
    assert torch.tensor(found["norms"]).isfinite().all()


def nudged(state, nudge: torch.Tensor):
    """An RNN's h moved by `nudge`; or an LSTM's c, with the h = o * tanh(c) that is made of it."""
    if isinstance(state, torch.Tensor):
        return state + nudge
    hidden, cell = state
    return hidden / cell.tanh() * (cell + nudge).tanh(), cell + nudge


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_the_gradient_over_time_is_that_of_a_nudge_to_the_state(kind, images):
    config = VanishingOptions(hidden_size=5, steps=14, sequence_updates=1, batch_size=2)
    norms = train_reader(config, images, kind, quiet())[0]["norms"]
    reader = Reader(config, kind, derived_generator(0, kind)).double()
    pixels, labels = images.batch(2, derived_generator(0, "held out"))
    pieces = pixels.double().view(2, 14, 56).unbind(dim=1)

    def loss_with(nudge: torch.Tensor, lag: int) -> torch.Tensor:
        state = None
        for step, piece in enumerate(pieces):
            state = reader.cell(piece, state)
            if step == 13 - lag:
                state = nudged(state, nudge)
        read = state if kind == "RNN" else state[0]
        return nn.functional.cross_entropy(reader.head(read), labels)

    with torch.no_grad():
        for lag in (0, 1, 3, 8):
            start = loss_with(torch.zeros(2, 5, dtype=torch.float64), lag)
            slopes = torch.zeros(2, 5, dtype=torch.float64)
            for row in range(2):
                for unit in range(5):
                    nudge = torch.zeros(2, 5, dtype=torch.float64)
                    nudge[row, unit] = 1e-6
                    slopes[row, unit] = (loss_with(nudge, lag) - start) / 1e-6
            assert norms[lag] == pytest.approx(float(slopes.norm()), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--steps", "30"], "--steps is 30; it must divide the 784 pixels of an image"),
        (["--clip-norm", "0"], "--clip-norm is 0.0; it must be above 0 and at most 1e+06"),
        (["--depth", "-2"], "--depth is -2; it must be at least 1"),
        (["--width"], "argument --width: expected one argument; --help lists the options"),
        (["--mnist", "no/such/place"], "MNIST is not in no/such/place (no no/such/place/MNIST"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, complaint, tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vanishing_gradients.py: {complaint}")
    if words[0] == "--mnist":
        assert line.endswith("or fetch it there by --download")
    assert not (tmp_path / "out").exists()
