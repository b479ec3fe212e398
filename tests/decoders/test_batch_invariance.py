"""Rows that do not depend, to the last bit, on how many there are or on their place among them."""

import pytest
import torch
from torch import Tensor

from captioner.decoders.batch_invariance import attend, in_blocks


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("width", [512, 130, 53, 12])
def test_every_row_is_the_same_alone_and_among_others(width: int):
    weight, rows = random(width, width + 3), random(70, width + 3)

    def function(block: Tensor, again: Tensor) -> tuple[Tensor, ...]:
        product = torch.nn.functional.linear(block, weight)
        return product.sigmoid(), product.tanh() * again

    inputs = rows, random(70, width)
    together = in_blocks(function, width, *inputs)
    for found, expected in zip(together, function(*inputs), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    for count in (1, 2, 3, 7, 9, 30, 65):
        for start in (0, 1, 5):
            some = slice(start, start + count)
            fewer = in_blocks(function, width, *(one[some] for one in inputs))
            assert all(torch.equal(a, b[some]) for a, b in zip(fewer, together, strict=True))


@pytest.mark.parametrize(("positions", "asked", "size"), [(49, 512, 512), (9, 53, 97), (3, 1, 1)])
def test_every_row_of_an_attention_is_the_same_alone_and_among_others(
    positions: int, asked: int, size: int
):
    keys, values = random(6, positions, asked), random(6, positions, size)
    queries, score = random(6, 10, asked), random(asked)
    together = attend(keys, values, queries, score)
    scores = torch.tanh(keys.unsqueeze(1) + queries.unsqueeze(2)) @ score
    torch.testing.assert_close(together[1], scores.softmax(-1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together[0], together[1] @ values)
    for images in (1, 2, 5):
        for beams in (1, 2, 3, 7):
            fewer = attend(keys[:images], values[:images], queries[:images, -beams:], score)
            for found, expected in zip(fewer, together, strict=True):
                assert torch.equal(found, expected[:images, -beams:])
