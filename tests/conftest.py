"""What many tests need: the prepared data, a few photographs, and no more than two threads."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from captioner.errors import CaptionerError
from captioner.native import compilation
from captioner.threads import wait_passively

# Services under test share the cores with other tests, which would starve the model's threads.
os.environ.setdefault("CAPTIONER_MODEL_NICE", "0")
# Read by torch when it is first imported, here and in the processes that tests start. Of several
# workers each has a core of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
wait_passively()

# All tests run with the kernels of decoding, where they can be compiled.
for _wanted in compilation.DECODING.instruction_sets:
    with suppress(CaptionerError):
        compilation.find_or_build(compilation.DECODING, _wanted)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_denormal_is_flushed() -> Iterator[None]:
    """Undo what programs of the benchmarks ask of the processor for their whole process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with prepared data sets, weights and published scores; skips where it is not."""
    folder = Path(os.environ.get("CAPTIONER_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"prepared data not found at {folder}; set CAPTIONER_SHARED")
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Four small JPEG files of different sizes and colours, in one folder."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    paths = []
    for number, (size, colour) in enumerate(
        [((48, 32), "navy"), ((32, 48), "olive"), ((64, 64), "maroon"), ((33, 57), "teal")]
    ):
        image = Image.new("RGB", size, colour)
        ImageDraw.Draw(image).ellipse((4, 4, 24, 20 + 4 * number), fill="white")
        paths.append(folder / f"photograph_{number}.jpg")
        image.save(paths[-1], quality=90)
    return paths
