"""MNIST from its files, packed or not, and what is said where they are missing or damaged."""

import gzip
import struct
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST

from captioner.errors import DataError
from training.mnist import load_mnist


def idx(values: torch.Tensor) -> bytes:
    """The file form of MNIST: a magic number, the sizes, the bytes."""
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.to(torch.uint8).numpy().tobytes()


def write_mnist(folder: Path, *, packed: bool, count: int = 96) -> tuple[torch.Tensor, ...]:
    """Write a small MNIST of random pixels, and return its training images and labels."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 28, 28), generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    for split, size in (("train", count), ("t10k", 10)):
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(values[:size])
            path = raw / f"{split}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return images, labels


@pytest.mark.parametrize("packed", [True, False])
def test_both_forms_are_read_and_nothing_is_added(packed, tmp_path):
    images, labels = write_mnist(tmp_path, packed=packed)
    before = sorted(tmp_path.rglob("*"))
    found_images, found_labels = load_mnist(tmp_path)
    assert torch.equal(found_images.long(), images)
    assert torch.equal(found_labels, labels)
    assert len(load_mnist(tmp_path, train=False)[1]) == 10
    assert sorted(tmp_path.rglob("*")) == before


def test_the_real_files(shared_data):
    images, labels = load_mnist(shared_data / "data" / "mnist")
    assert images.shape == (60_000, 28, 28)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert abs(float(images.float().mean()) / 255 - 0.1307) < 1e-4


def test_missing_files_are_named_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"^MNIST is not in .*; give its folder by --mnist, or"):
        load_mnist(tmp_path / "nowhere")
    write_mnist(tmp_path, packed=True)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"fetch it there by --download$"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_one_line(packed, tmp_path):
    write_mnist(tmp_path, packed=packed)
    path = next((tmp_path / "MNIST" / "raw").glob("train-images*"))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"^MNIST in .* is damaged: .*again by --download$"):
        load_mnist(tmp_path)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "no mirror").as_uri() + "/"])
    with pytest.raises(DataError, match=r"could not be fetched into .*; check the connection"):
        load_mnist(tmp_path / "new", download=True)


def test_a_download_that_is_not_needed_asks_nobody(tmp_path, monkeypatch):
    write_mnist(tmp_path, packed=False)
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert len(load_mnist(tmp_path, download=True)[1]) == 96
