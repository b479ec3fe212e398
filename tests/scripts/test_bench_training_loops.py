"""The benchmark of training loops: its stand-in computes what ours does, nonsense is refused."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import bench_training_loops

    return bench_training_loops


def test_the_stand_in_has_the_loss_and_gradients_of_our_model(bench: ModuleType) -> None:
    from training.benchmarks.copying import CopyingConfig, CopyingTask
    from training.methods import load_method

    task = CopyingTask(CopyingConfig(delay=4, symbols=2, batch_size=3), bench.CPU)
    loaded, draws = load_method("lstm"), torch.Generator().manual_seed(0)
    for p in (0.0, 1.0):  # at both ends it does not matter how the steps are drawn
        method = loaded.method(1, 5, loaded.options(p=p), generator=draws)
        ours, theirs = task.build_model(method, draws), bench.AuthorsNet(1, 5, bench.CLASSES)
        i_f_g_o = [method.lstm.weight_ih_l0, method.lstm.weight_hh_l0]
        i_f_g_o += [method.lstm.bias_ih_l0, method.lstm.bias_hh_l0]
        order = torch.arange(20).view(4, 5)[[0, 1, 3, 2]].flatten()  # to i, f, o, g
        i_f_o_g = [theirs.from_input.weight, theirs.from_hidden.weight]
        i_f_o_g += [theirs.from_input.bias, theirs.from_hidden.bias]
        with torch.no_grad():
            for source, target in zip(i_f_g_o, i_f_o_g, strict=True):
                target.copy_(source[order])
            theirs.output.load_state_dict(ours.head.state_dict())
        batch = next(task.batches(0))
        loss = task.loss(ours, batch, draws)
        other = bench.authors_loss(theirs, batch, p, True)
        torch.testing.assert_close(other, loss)
        wanted = [grad[order] for grad in torch.autograd.grad(loss, i_f_g_o)]
        torch.testing.assert_close(list(torch.autograd.grad(other, i_f_o_g)), wanted)


@pytest.mark.parametrize("name", ["OURS", "PUBLISHED"])
def test_a_round_gives_the_seconds_of_updates_and_of_a_validation(
    bench: ModuleType, name: str
) -> None:
    options = bench.LoopOptions(updates=2, delay=1)
    updates, validation = bench.contestant("copying", getattr(bench, name), options)()
    assert updates > 0
    assert validation > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds is 0; it must be at least 1"),
        (["--p", "1.5"], "--p is 1.5; a probability lies between 0 and 1"),
        (["--mnist", "nowhere"], "MNIST is not in nowhere"),
    ],
)
def test_bad_options_are_one_line(
    bench: ModuleType, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(words) == 2
    assert capsys.readouterr().err.startswith(f"bench_training_loops.py: {message}")
