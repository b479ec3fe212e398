"""The GPU kernels in Triton's interpreter on the CPU, and through Triton's compiler."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]

# The interpreter is chosen when Triton is first imported, so it gets a process of its own.
COMPARE = """
    import torch

    from gpu.equality import CASES, errors

    torch.set_num_threads(1)
    for found in errors(CASES, torch.device("cpu")):
        assert max(found["values"], found["gradients"]) < 1e-5, found
    print("equal")
"""

# Compiles for a GPU that need not be there, down to its machine code.
COMPILE = """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from captioner.lstm.backends import triton_kernels
    from captioner.lstm.backends.triton_backend import DEPTH, ROWS_AT_ONCE, UNITS_AT_ONCE, WARPS

    OPTIONS = {
        "size": 128, "packed": True, "has_grad_outputs": True, "keep_width": 1,
        "cell_keep_width": 2, "rows_at_once": ROWS_AT_ONCE, "units_at_once": UNITS_AT_ONCE,
        "depth": DEPTH, "precision": "ieee",
    }
    NUMBERS = ("steps", "batch_size", "model_rows", "cell_stride")
    TYPES = {**dict.fromkeys(NUMBERS, "i32"), "lengths": "*i64"}
    for kernel in (triton_kernels.forward_kernel, triton_kernels.backward_kernel):
        names = kernel.arg_names
        signature = {
            name: "constexpr" if name in OPTIONS else TYPES.get(name, "*fp32") for name in names
        }
        constants = {(place,): OPTIONS[name] for place, name in enumerate(names) if name in OPTIONS}
        compiled = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 80, 32),
            options={"num_warps": WARPS},
        )
        assert compiled.asm["cubin"]
        assert compiled.metadata.shared <= 96 * 1024, compiled.metadata.shared
    print("compiled")
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_kernels_give_the_values_and_gradients_of_the_loop() -> None:
    assert run(COMPARE, TRITON_INTERPRET="1") == "equal"


def test_the_kernels_compile_for_a_gpu(tmp_path) -> None:
    assert run(COMPILE, TRITON_CACHE_DIR=str(tmp_path)) == "compiled"
