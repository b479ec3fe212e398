"""Features are selected, joined and moved together, whatever tensors they hold."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captioner.features import Features


@dataclass(frozen=True, eq=False)
class WithAttributes(Features):
    """Features as they may become."""

    attributes: Tensor | None = None  # [B, 1]


def features(*numbers: int, has_attributes: bool = True) -> WithAttributes:
    values = torch.tensor(numbers, dtype=torch.float32)
    attributes = values.view(-1, 1).clone() if has_attributes else None
    return WithAttributes(values.view(-1, 1, 1).clone(), attributes)


def numbers(found: WithAttributes) -> list[float]:
    if found.attributes is not None:
        assert torch.equal(found.attributes[:, 0], found.grid[:, 0, 0])
    return found.grid[:, 0, 0].tolist()


def test_every_tensor_follows_the_images() -> None:
    three = features(5, 6, 7)
    assert len(three) == 3
    assert numbers(three.select(torch.tensor([2, 0]))) == [7, 5]
    assert numbers(three.select(slice(1, 3))) == [6, 7]
    assert numbers(WithAttributes.cat([three, features(8)])) == [5, 6, 7, 8]
    assert numbers(WithAttributes.in_order([features(8, 9), three], [3, 1, 0, 4, 2])) == [
        *(5, 9, 7, 8, 6),
    ]
    three.put([2, 0], features(1, 2))
    assert numbers(three) == [2, 6, 1]


def test_what_is_absent_stays_absent() -> None:
    bare = features(1, 2, has_attributes=False)
    assert WithAttributes.cat([bare, bare]).attributes is None
    assert bare.select(slice(1)).float().attributes is None
    assert numbers(bare.to(torch.device("cpu"))) == [1, 2]


def test_arrays_of_numpy_are_as_good_as_tensors() -> None:
    three = features(5, 6, 7).numpy()
    assert isinstance(three.grid, np.ndarray)
    assert three.numpy().grid is three.grid
    assert numbers_of_numpy(three.select(np.array([2, 0]))) == [7, 5]
    assert numbers_of_numpy(three.select(slice(1, 3)).float()) == [6, 7]
    others = features(8, 9).numpy()
    assert numbers_of_numpy(WithAttributes.cat([three, others])) == [5, 6, 7, 8, 9]
    ordered = WithAttributes.in_order([others, three], [3, 1, 0, 4, 2])
    assert numbers_of_numpy(ordered) == [5, 9, 7, 8, 6]
    three.put([2, 0], features(1, 2).numpy())
    assert numbers_of_numpy(three) == [2, 6, 1]
    assert numbers(three.to("cpu")) == [2, 6, 1]
    half = WithAttributes(three.grid.astype(np.float16))
    assert half.float().grid.dtype == np.float32


def numbers_of_numpy(found: WithAttributes) -> list[float]:
    assert isinstance(found.grid, np.ndarray)
    assert np.array_equal(found.attributes[:, 0], found.grid[:, 0, 0])
    return found.grid[:, 0, 0].tolist()
