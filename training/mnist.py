"""MNIST as tensors, read with torchvision from unpacked or packed files."""

import gzip
import shutil
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from captioner.errors import DataError

_RAW = Path("MNIST", "raw")  # where torchvision looks, below its root
_FILES = [
    f"{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def load_mnist(
    folder: Path, *, train: bool = True, download: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the images and the labels of MNIST; nothing is written unless `download`.

    Shapes:
        -> images [N, 28, 28] uint8, labels [N], N = 60,000 for training and 10,000 for testing.
    Raises:
        DataError: the files are missing or damaged, or could not be fetched.
    """
    from torchvision.datasets import MNIST

    raw = folder / _RAW
    is_packed = not _are_all(raw, "") and _are_all(raw, ".gz")
    if not (download or is_packed or _are_all(raw, "")):
        raise DataError(
            f"MNIST is not in {folder} (no {raw / _FILES[0]}, nor all of the four files); "
            "give its folder by --mnist, or fetch it there by --download"
        )
    try:
        if not is_packed:
            data = MNIST(folder, train=train, download=download)
            return data.data, data.targets
        with TemporaryDirectory() as unpacked:
            _unpack(raw, Path(unpacked, _RAW))
            data = MNIST(unpacked, train=train)
            return data.data, data.targets
    except (OSError, EOFError, RuntimeError, ValueError, AssertionError, zlib.error) as problem:
        if download and not _are_all(raw, ""):
            reason = (str(problem) or type(problem).__name__).splitlines()[-1]
            raise DataError(
                f"MNIST could not be fetched into {folder}: {reason}; check the connection and "
                "the folder, or copy the four files of MNIST to " + str(raw)
            ) from problem
        raise DataError(
            f"MNIST in {folder} is damaged: {problem or type(problem).__name__}; "
            f"remove {raw} and fetch it again by --download"
        ) from problem


def _are_all(raw: Path, ending: str) -> bool:
    return all((raw / (name + ending)).is_file() for name in _FILES)


def _unpack(packed: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in _FILES:
        with gzip.open(packed / f"{name}.gz") as source, open(target / name, "wb") as copy:
            shutil.copyfileobj(source, copy)
