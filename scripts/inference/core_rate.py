"""The rate of a core: the multiplications with an addition that it does a second at best."""

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from captioner.errors import ToolError
from captioner.native.compilation import find_compiler
from captioner.text import in_one_line

SOURCE = Path(__file__).with_name("rate.cpp")


class CoreRate(NamedTuple):
    """Thousand million multiplications a second of one core."""

    float32: float
    int8: float


def core_rate() -> CoreRate:
    """Return the rates of AVX2, by loops on registers alone.

    Raises:
        ToolError: there is no compiler, or the processor has no AVX2.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "rate"
        for command in (
            [*find_compiler(), "-std=c++17", "-O2", str(SOURCE), "-o", str(program)],
            [str(program)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                said = in_one_line(done.stderr)[:200] or f"ended with {done.returncode}"
                raise ToolError(f"the rate of a core cannot be measured (it needs AVX2): {said}")
    return CoreRate(*map(float, done.stdout.split()))
