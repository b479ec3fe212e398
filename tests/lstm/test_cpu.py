"""The compiled backend against the loop with `.detach()`, on all instruction sets at hand."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from captioner.errors import CaptionerError
from captioner.lstm.backends import cpu_backend
from captioner.lstm.operands import GradResults, Masks, Needs, Operands, Saved
from captioner.lstm.reference import loop
from captioner.native import buffers, library
from captioner.native.compilation import PLAIN

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        library.load()
    except CaptionerError as problem:
        pytest.skip(str(problem))


@pytest.fixture(params=["at hand", "plain"])
def instruction_set(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The processor's own instruction set, then the one that every processor has."""
    if request.param == "plain":
        monkeypatch.setattr(library, "instruction_set", lambda: PLAIN)
    library.load.cache_clear()
    yield
    monkeypatch.undo()
    library.load.cache_clear()


@dataclass
class Case:
    arguments: list[Tensor]  # x, h0, c0, w_ih, w_hh, b_ih, b_hh, in float64
    grads: list[Tensor]  # of outputs, h_n and c_n
    keep: Tensor | None
    cell_keep: Tensor | None
    lengths: Tensor | None

    def reference(self) -> list[Tensor]:
        """Outputs and last states, then all gradients, from autograd on the loop."""
        leaves = [one.clone().requires_grad_() for one in self.arguments]
        results = loop(*leaves, self.keep, self.cell_keep, self.lengths)
        grads = torch.autograd.grad(
            results, leaves, self.grads, allow_unused=True, materialize_grads=True
        )
        return [one.detach() for one in (*results, *grads[:6])]

    def run(self, dtype: torch.dtype, **given: Tensor | None) -> list[Tensor]:
        to = [one.to(dtype) for one in self.arguments]
        operands = Operands(*to, lengths=self.lengths)
        passed = cpu_backend.forward(operands, save=True)
        grads = [one.to(dtype) for one in self.grads]
        masks = (None if mask is None else mask.to(dtype) for mask in (self.keep, self.cell_keep))
        found = cpu_backend.backward(
            GradResults(
                *(
                    given.get(name, grad)
                    for name, grad in zip(("out", "h", "c"), grads, strict=True)
                )
            ),
            operands,
            Saved(passed.outputs, passed.gates, passed.cells),
            Masks(*masks),
            Needs(*[True] * 7),
        )
        return [*passed[:3], *(one for one in found if one is not None)]


def make_case(
    steps: int, batch: int, inputs: int, hidden: int, mask: str = "shared", ragged: bool = False
) -> Case:
    generator = torch.Generator().manual_seed(steps + batch + hidden)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rows = 4 * hidden
    weights = [
        (2 * uniform(*shape) - 1) * hidden**-0.5
        for shape in ((rows, inputs), (rows, hidden), (rows,), (rows,))
    ]
    states = [normal(batch, hidden), normal(batch, hidden)]
    keep = {
        "none": None,
        "ones": torch.ones(steps, dtype=torch.float64),
        "zeros": torch.zeros(steps, dtype=torch.float64),
        "shared": (uniform(steps) > 0.4).double(),
        "fractional": uniform(steps),
        "per sample": (uniform(steps, batch) > 0.4).double(),
    }[mask]
    cell_keep = {"fractional": uniform(steps), "per sample": uniform(steps, batch).round()}
    lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
    return Case(
        arguments=[normal(steps, batch, inputs), *states, *weights],
        grads=[normal(steps, batch, hidden), normal(batch, hidden), normal(batch, hidden)],
        keep=keep,
        cell_keep=cell_keep.get(mask),
        lengths=lengths.sort(descending=True).values if ragged else None,
    )


def assert_close(found: list[Tensor], expected: list[Tensor], limit: float) -> None:
    names = ("outputs", "h_n", "c_n", "x", "h0", "c0", "w_ih", "w_hh", "bias")
    for name, one, other in zip(names, found, expected, strict=True):
        error = (one.double() - other).norm() / other.norm().clamp_min(1e-30)
        assert error <= limit, f"{name}: {error:.1e}"


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("mask", ["none", "ones", "zeros", "shared", "fractional", "per sample"])
def test_values_and_gradients_are_those_of_the_loop(
    mask: str, ragged: bool, dtype: torch.dtype
) -> None:
    for sizes in ((1, 1, 1, 1), (5, 3, 2, 7), (7, 10, 1, 100), (4, 7, 30, 33)):
        case = make_case(*sizes, mask=mask, ragged=ragged)
        assert_close(case.run(dtype), case.reference(), LIMIT[dtype])


@pytest.mark.parametrize(
    "sizes",
    [(3, 100, 1, 128), (300, 3, 1, 7), (5, 5, 300, 70), (4, 9, 20, 260), (40, 40, 1, 128)],
    ids=str,
)
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_sizes_that_are_cut_into_parts_come_out_whole(
    sizes: tuple[int, int, int, int], ragged: bool
) -> None:
    case = make_case(*sizes, ragged=ragged)
    expected = case.reference()
    for dtype, limit in LIMIT.items():
        assert_close(case.run(dtype), expected, limit)


def test_thirty_thousand_rows_add_up_in_single_precision() -> None:
    case = make_case(300, 100, 1, 12)
    assert_close(case.run(torch.float32), case.reference(), 2e-6)


def test_gradients_that_nobody_gave_count_as_zero() -> None:
    case = make_case(6, 4, 2, 9)
    full = case.grads
    for missing in ("out", "h", "c"):
        place = ("out", "h", "c").index(missing)
        case.grads = [torch.zeros_like(g) if i == place else g for i, g in enumerate(full)]
        assert_close(case.run(torch.float64, **{missing: None}), case.reference(), 1e-12)


def test_without_saving_the_values_are_the_same() -> None:
    for sizes in ((9, 5, 1, 20), (5, 5, 300, 70)):
        arguments = [one.float() for one in make_case(*sizes).arguments]
        saved = cpu_backend.forward(Operands(*arguments), save=True)
        light = cpu_backend.forward(Operands(*arguments), save=False)
        assert all(torch.equal(one, other) for one, other in zip(saved[:3], light[:3], strict=True))
        assert light[3].numel() == light[4].numel() == 0


def test_workspaces_have_the_promised_shapes() -> None:
    for sizes in ((9, 5, 1, 20), (5, 5, 300, 70)):
        arguments = make_case(*sizes).arguments
        found = cpu_backend.forward(Operands(*arguments), save=True)
        shapes = [tuple(one.shape) for one in found[3:]]
        assert shapes == [
            tuple(shape) for shape in cpu_backend.workspace_shapes(sizes[0], sizes[1], sizes[3])
        ]


def test_the_number_of_threads_changes_rounding_only() -> None:
    case = make_case(20, 50, 1, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = case.run(torch.float64)
        torch.set_num_threads(2)
        assert_close(case.run(torch.float64), alone, 1e-14)
    finally:
        torch.set_num_threads(threads)


def test_infinite_gradients_stop_at_a_detached_step() -> None:
    case = make_case(4, 3, 1, 5)
    case.keep = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    case.cell_keep = case.keep
    case.grads[0][3] = torch.inf
    grad_x = case.run(torch.float32)[3]
    assert grad_x[:2, [0, 2]].isfinite().all()
    assert not grad_x[:2, 1].isfinite().all()


def test_fading_gradients_end_in_zeros_and_the_processor_is_left_as_it_was() -> None:
    case = make_case(400, 8, 1, 16, mask="none")
    case.grads[0].zero_()
    smallest = torch.finfo(torch.float32).tiny
    reference = make_case(400, 8, 1, 16, mask="none")
    reference.grads[0].zero_()
    reference.arguments = [one.float() for one in reference.arguments]
    reference.grads = [one.float() for one in reference.grads]

    def denormals(tensor: Tensor) -> int:
        # In integers: a flushing processor would compare a denormal number as zero.
        bits = tensor.contiguous().view(torch.int32) & 0x7FFFFFFF
        return int(((bits > 0) & (bits < 0x00800000)).sum())

    assert denormals(reference.reference()[3]) > 0, "the case shows nothing"
    assert denormals(case.run(torch.float32)[3]) == 0
    assert (torch.tensor(smallest) / 2).item() > 0.0
    big = torch.full((1_000_000,), smallest)  # all threads of PyTorch have a share of it
    assert denormals(big / 2) == big.numel()


def test_one_openmp_library_serves_pytorch_and_the_kernels() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(loaded) == 1
    threads = torch.get_num_threads()
    assert library.load().hdetach_threads() == threads


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> buffers._Pool:
    monkeypatch.setattr(buffers, "_pool", buffers._Pool())
    return buffers._pool


def idle_bytes(pool: buffers._Pool) -> int:
    pool._collect()
    return sum(block.size for block in pool._idle)


@pytest.mark.usefixtures("pool")
def test_a_block_returns_to_the_pool_with_the_last_view_of_it() -> None:
    tensor = buffers.empty((3 << 20,), torch.float32)
    address = tensor.data_ptr()
    view = tensor[5:10]
    del tensor
    other = buffers.empty((3 << 20,), torch.float32)
    assert other.data_ptr() != address
    thread = threading.Thread(target=lambda held: held.clear(), args=([view],))
    del view
    thread.start()
    thread.join()
    assert buffers.empty((3 << 20,), torch.float32).data_ptr() == address


def test_the_pool_holds_no_more_than_was_once_in_use(pool: buffers._Pool) -> None:
    megabytes = 1 << 20
    for size in (40, 60, 90, 130):  # none fits into the block of the one before
        del_me = buffers.empty((size * megabytes // 4,), torch.float32)
        del del_me
    assert idle_bytes(pool) <= 132 * megabytes
    for _ in range(70):  # nobody wants the large block any more
        buffers.empty((megabytes,), torch.float32)
    assert idle_bytes(pool) <= 10 * megabytes


def test_small_tensors_are_left_to_pytorch(pool: buffers._Pool) -> None:
    buffers.empty((10,), torch.float64)
    assert idle_bytes(pool) == 0
