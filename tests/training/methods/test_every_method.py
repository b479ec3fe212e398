"""What holds for every file in training/methods, also for one that is added."""

from typing import Any

import pytest
import torch
from torch import Tensor

from captioner.errors import OptionError
from training.methods import load_method, method_names

# Options under which something happens within 23 steps.
SHORT: dict[str, dict[str, Any]] = {
    "sab": {"top_k": 2, "truncation": 5, "store_every": 3, "memory_size": 4},
    "indrnn": {"layers": 2},
    "lstm": {"layers": 2},
}


@pytest.mark.parametrize("name", method_names())
def test_a_sequence_in_pieces_gives_what_the_whole_gives(name: str, build: Any, x: Tensor) -> None:
    network = build(name, **SHORT.get(name, {})).eval()
    whole, last = network(x)
    assert whole.shape == (23, 4, network.output_size)
    pieces, state = [], None
    for piece in x.split([1, 6, 11, 5]):
        outputs, state = network(piece, state)
        pieces.append(outputs)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", method_names())
def test_a_seed_gives_one_network_that_learns_all_its_weights(
    name: str, build: Any, x: Tensor
) -> None:
    network, again = build(name), build(name)
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    outputs, _ = network(x, generator=torch.Generator().manual_seed(2))
    outputs.square().sum().backward()
    idle = [
        label
        for label, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert idle == []


@pytest.mark.parametrize("name", method_names())
def test_masks_come_from_the_generator_and_evaluation_draws_nothing(
    name: str, build: Any, x: Tensor
) -> None:
    network = build(name)
    first, _ = network(x, generator=torch.Generator().manual_seed(3))
    again, _ = network(x, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    network.eval()(x, generator=generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("irnn", {"recurrent_scale": 0.0}, "--recurrent-scale is 0.0; it must be above 0"),
        ("indrnn", {"layers": 0}, "--layers is 0; it must be at least 1"),
        ("indrnn", {"recurrent_bound": 3.0}, "--recurrent-bound is 3.0; it must be above 0"),
        ("zoneout", {"p": 1.5}, "--p is 1.5; a probability lies between 0 and 1"),
        ("zoneout", {"zoneout_c": 1.0}, "--zoneout-c is 1.0; it must be at least 0 and below 1"),
        ("sab", {"top_k": 0}, "--top-k is 0; it must be at least 1"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    name: str, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        load_method(name).options(**wrong)
    assert str(caught.value).startswith(message)
