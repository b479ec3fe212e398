"""The GPU kernels in Triton's interpreter on the CPU, and through Triton's compiler."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

# The interpreter is chosen when Triton is first imported, so it gets a process of its own.
COMPARE = """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)

    from captioner.lstm import hdetach_lstm


    def differentiate(tensors, grads, masks, **options):
        leaves = [one.clone().requires_grad_() for one in tensors]
        results = hdetach_lstm(*leaves, *masks, **options)
        pairs = [(r, g) for r, g in zip(results, grads) if g is not None]
        found = torch.autograd.grad(
            [r for r, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True,
            materialize_grads=True,
        )
        return [one.detach() for one in (*results, *found)]


    def masks_of(kind, steps, rows):
        if kind == "shared":
            return (torch.rand(steps) - 0.4).clamp_min(0.0), torch.rand(steps)
        if kind == "per sample":
            return torch.rand(steps, rows), (torch.rand(steps, rows) < 0.5).float()
        return None, None


    CASES = [
        # T, B, I, H, mask, lengths, which results are differentiated
        (1, 1, 1, 1, "shared", None, (1, 1, 1)),
        (6, 18, 3, 7, "per sample", None, (1, 1, 1)),
        (5, 3, 2, 70, "shared", None, (1, 0, 0)),
        (4, 2, 2, 128, "none", None, (0, 1, 0)),
        (7, 4, 3, 20, "shared", [7, 5, 5, 1], (1, 1, 1)),
        (7, 4, 3, 5, "per sample", [7, 5, 5, 1], (0, 0, 1)),
    ]
    for steps, rows, inputs, size, kind, lengths, asked in CASES:
        shapes = (
            (steps, rows, inputs), (rows, size), (rows, size),
            (4 * size, inputs), (4 * size, size), (4 * size,), (4 * size,),
        )
        tensors = [(torch.rand(shape).double() * 2 - 1) * size**-0.5 for shape in shapes]
        grads = [
            torch.randn(shape).double() if ask else None
            for ask, shape in zip(asked, ((steps, rows, size), (rows, size), (rows, size)))
        ]
        masks = masks_of(kind, steps, rows)
        lengths = None if lengths is None else torch.tensor(lengths)
        expected = differentiate(tensors, grads, masks, backend="reference", lengths=lengths)
        found = differentiate(
            [one.float() for one in tensors],
            [None if one is None else one.float() for one in grads],
            masks,
            backend="triton",
            lengths=lengths,
        )
        for number, (one, other) in enumerate(zip(found, expected)):
            error = (one - other).abs().max() / other.abs().max().clamp_min(1e-3)
            assert error < 1e-5, (steps, rows, inputs, size, kind, number, error)
        with torch.no_grad():
            single = [one.float() for one in tensors]
            plain = hdetach_lstm(*single, None, backend="triton", lengths=lengths)
        for one, other in zip(plain, expected):
            assert (one - other).abs().max() < 1e-5
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
    TYPES = {"steps": "i32", "batch_size": "i32", "cell_stride": "i32", "lengths": "*i64"}
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
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_kernels_give_the_values_and_gradients_of_the_loop() -> None:
    assert run(COMPARE, TRITON_INTERPRET="1") == "equal"


def test_the_kernels_compile_for_a_gpu(tmp_path) -> None:
    assert run(COMPILE, TRITON_CACHE_DIR=str(tmp_path)) == "compiled"
