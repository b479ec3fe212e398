"""A joint store: rows of several stores by places in all, each found again by itself."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from captioner.encoder.config import EncoderConfig
from captioner.encoder.encoders import create_encoder
from captioner.encoder.interface import Encoder
from captioner.encoder.joint_store import JointStore
from captioner.encoder.store import FeatureStore


class File(NamedTuple):
    path: Path
    filename: str


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return create_encoder(EncoderConfig(name="test_resnet", weights="none", image_size=32, grid=2))


@pytest.fixture
def lists(tmp_path: Path) -> list[list[File]]:
    """Three lists, the second empty, whose files have the same names; one image is broken."""
    found: list[list[File]] = []
    for number, count in enumerate((3, 0, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append([File(folder / f"{n}.png", f"{n}.png") for n in range(count)])
        for file in found[-1]:
            pixels = np.random.default_rng(count * 10 + len(file.filename)).integers(
                0, 256, (8, 8, 3)
            )
            pixels[int(file.filename[0])] = number * 50
            Image.fromarray(pixels.astype(np.uint8)).save(file.path)
    found[2][1].path.write_bytes(b"broken")
    return found


def test_rows_come_from_the_store_of_their_list(encoder, lists, tmp_path):
    joint = JointStore.open(tmp_path / "features", encoder, lists)
    first, second = (
        FeatureStore.open(tmp_path / "features", encoder, lists[number]) for number in (0, 2)
    )
    assert len([*(tmp_path / "features").iterdir()]) == 2  # found again, not written anew
    assert len(joint) == 7
    assert joint.missing == {4}
    found = joint.rows([5, 0, 3, 2, 6, 0])
    expected = [second.rows([2]), first.rows([0]), second.rows([0]), first.rows([2])]
    expected += [second.rows([3]), first.rows([0])]
    assert np.array_equal(found.grid, np.concatenate([one.grid for one in expected]))
    assert len(joint.rows([])) == 0
