"""The LSTM: PyTorch's at p = 0, a loop with .detach() above, and the options of the paper."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.hdetach.masks import sample_keep
from training.methods.lstm import Method, Options


def build(seed: int = 1, hidden_size: int = 5, **options: Any) -> Method:
    generator = torch.Generator().manual_seed(seed)
    method = Method(3, hidden_size, Options(**options), generator=generator)
    return method.double()


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(11, 2, 3, dtype=torch.float64, generator=draws(9))


def gradients(method: Method, outputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(outputs.square().sum(), list(method.parameters())))


def test_without_detaching_it_is_pytorchs(inputs: Tensor) -> None:
    method = build()
    twin = nn.LSTM(3, 5).double()
    twin.load_state_dict(method.lstm.state_dict())
    outputs, state = method(inputs)
    expected, last = twin(inputs)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(state, last)
    wanted = torch.autograd.grad(expected.square().sum(), list(twin.parameters()))
    torch.testing.assert_close(gradients(method, outputs), list(wanted))


def test_with_detaching_it_is_a_loop_that_detaches(inputs: Tensor) -> None:
    method = build(p=0.5)
    outputs, _ = method(inputs, generator=draws(4))
    keep = sample_keep(11, 0.5, generator=draws(4))
    assert 0 < keep.sum() < 11
    cell = nn.LSTMCell(3, 5).double()
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in method.lstm.state_dict().items()}
    )
    h = c = torch.zeros(2, 5, dtype=torch.float64)
    naive = []
    for x, kept in zip(inputs, keep, strict=True):
        h, c = cell(x, (h if kept else h.detach(), c))
        naive.append(h)
    torch.testing.assert_close(outputs, torch.stack(naive))
    wanted = torch.autograd.grad(torch.stack(naive).square().sum(), list(cell.parameters()))
    torch.testing.assert_close(gradients(method, outputs), list(wanted))


def test_no_option_changes_the_weights_or_a_value(inputs: Tensor) -> None:
    plain, _ = build()(inputs)
    for options in ({"p": 0.5}, {"p": 1.0}, {"cell_p": 0.5}, {"p": 0.3, "damping": True}):
        outputs, _ = build(**options)(inputs, generator=draws(2))
        torch.testing.assert_close(outputs, plain)


def test_every_weight_and_bias_is_drawn_alike() -> None:
    method = build(hidden_size=64)
    for weight in method.parameters():
        assert weight.abs().max() <= 64**-0.5
        assert weight.std().item() == pytest.approx(64**-0.5 / 3**0.5, rel=0.15)


@pytest.mark.parametrize(
    "options", [{"p": 0.5}, {"cell_p": 0.5}, {"p": 0.5, "damping": True}, {"p": 0.5, "layers": 2}]
)
def test_detaching_can_end(options: dict[str, Any], inputs: Tensor) -> None:
    method, plain = build(**options), build(layers=options.get("layers", 1))
    expected = gradients(plain, plain(inputs)[0])
    changed = gradients(method, method(inputs, generator=draws(3))[0])
    assert not torch.allclose(changed[1], expected[1])
    method.stop_detaching()
    torch.testing.assert_close(gradients(method, method(inputs, generator=draws(3))[0]), expected)


def test_layers_share_their_masks_unless_told(inputs: Tensor) -> None:
    shared, independent = (
        build(p=0.5, layers=2, layer_masks=kind) for kind in ("shared", "independent")
    )
    one, other = (
        gradients(method, method(inputs, generator=draws(8))[0]) for method in (shared, independent)
    )
    assert not all(map(torch.allclose, one, other))
    # The same mask in both layers, given by hand, is what sharing means.
    outputs, _ = shared.lstm(inputs, keep=sample_keep(11, 0.5, generator=draws(8)))
    torch.testing.assert_close(gradients(shared, outputs), one)


def test_a_sequence_is_summed_up_where_each_direction_ends(inputs: Tensor) -> None:
    method = build()
    outputs, state = method(inputs)
    assert torch.equal(method.summary(outputs, state), outputs[-1])
    both = build(bidirectional=True, layers=2)
    outputs, state = both(inputs)
    assert (both.output_size, both.is_causal) == (10, False)
    expected = torch.cat([outputs[-1, :, :5], outputs[0, :, 5:]], dim=1)
    torch.testing.assert_close(both.summary(outputs, state), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, "--p is 1.5; a probability lies between 0 and 1"),
        ({"cell_p": -0.1}, "--cell-p is -0.1; a probability lies between 0 and 1"),
        ({"layers": 0}, "--layers is 0; it must be at least 1"),
        ({"layer_masks": "mixed"}, "--layer-masks is 'mixed'; it can be shared or independent"),
        ({"damping": True}, "--damping is given with --p 0; give the --p whose mean it takes"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options(**options)
    assert str(caught.value) == message
