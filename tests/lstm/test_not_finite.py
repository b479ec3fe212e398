"""NaN and infinity go where they go in `nn.LSTM`, forward and backward, in every backend."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from captioner.lstm import HDetachLSTM, hdetach_lstm
from captioner.lstm.backends import load
from captioner.native import library
from captioner.native.compilation import PLAIN

BACKENDS = ["reference", *(name for name in ("torch", "cpu") if load(name).missing() is None)]
OPERANDS = ("x", "h0", "c0", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
# Quiet and signalling, of either sign, with few and many bits set; last R's NA.
PATTERNS = {
    torch.float32: (0x7FC00000, 0x7FFFFFFF, 0x7FC00001, 0x7F800001, 0x7FA00000, 0xFFC00000,
                    0xFFFFFFFF, 0xFFC00001, 0xFF800001),
    torch.float64: (0x7FF8000000000000, 0x7FFFFFFFFFFFFFFF, 0xFFF8000000000001,
                    0xFFFFFFFFFFFFFFFF, 0x7FF0000000000001, 0x7FF00000000007A2),
}  # fmt: skip


@pytest.fixture(params=[*BACKENDS, "cpu, plain"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend, and the compiled one with the instructions that every processor has."""
    name = request.param.removesuffix(", plain")
    if name != request.param:
        if name not in BACKENDS:
            pytest.skip("no compiler")
        monkeypatch.setattr(library, "instruction_set", lambda: PLAIN)
        monkeypatch.setattr(library, "load", cache(library.load.__wrapped__))
    return name


def not_a_number(bits: int, dtype: torch.dtype) -> Tensor:
    size = dtype.itemsize * 8
    signed = bits - (1 << size) if bits >> (size - 1) else bits
    return torch.tensor([signed], dtype=getattr(torch, f"int{size}")).view(dtype)


def run(layer: nn.Module, operands: dict[str, Tensor]) -> list[Tensor]:
    """Return outputs, last states and the gradients of all operands."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(operands[name])
    given = [operands[name].clone().requires_grad_() for name in OPERANDS[:3]]
    outputs, (h_n, c_n) = layer(given[0], (given[1], given[2]))
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(outputs.sum() + h_n.sum() + c_n.sum(), [*given, *parameters])
    return [one.detach() for one in (outputs, h_n, c_n, *grads)]


def make_operands(hidden: int, dtype: torch.dtype, inputs: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(hidden)
    rows = 4 * hidden
    shapes = [(5, 3, inputs), (1, 3, hidden), (1, 3, hidden), (rows, inputs), (rows, hidden)]
    return {
        name: (torch.rand(shape, generator=generator, dtype=dtype) - 0.5) * 0.5
        for name, shape in zip(OPERANDS, [*shapes, (rows,), (rows,)], strict=True)
    }


def as_nn_lstm(operands: dict[str, Tensor]) -> list[Tensor]:
    inputs, hidden = operands["x"].shape[2], operands["h0"].shape[2]
    return run(nn.LSTM(inputs, hidden, dtype=operands["x"].dtype), operands)


def assert_runs_to(
    expected: list[Tensor], operands: dict[str, Tensor], backend: str, case: str
) -> None:
    inputs, hidden = operands["x"].shape[2], operands["h0"].shape[2]
    layer = HDetachLSTM(inputs, hidden, dtype=operands["x"].dtype, backend=backend)
    for number, (one, other) in enumerate(zip(run(layer, operands), expected, strict=True)):
        wrong = one.isnan() != other.isnan()
        assert not wrong.any(), f"{case}, result {number}: {int(wrong.sum())} of {one.numel()}"
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", PATTERNS, ids=str)
def test_nan_of_every_bit_pattern_goes_where_it_goes_in_nn_lstm(dtype, backend):
    for name in OPERANDS:
        for hidden, everywhere in ((6, True), (9, False)):
            operands = make_operands(hidden, dtype)
            place = operands[name].view(-1)[slice(None) if everywhere else slice(1, 2)]
            place.fill_(torch.nan)
            expected = as_nn_lstm(operands)
            for bits in PATTERNS[dtype] if backend == "cpu" else PATTERNS[dtype][:2]:
                place.copy_(not_a_number(bits, dtype))
                assert place.isnan().all()
                assert_runs_to(expected, operands, backend, f"{name}, {bits:x}, {hidden}")


@pytest.mark.parametrize("dtype", PATTERNS, ids=str)
def test_infinite_operands_leave_gradients_finite_where_nn_lstm_does(dtype, backend):
    for name in OPERANDS[:3]:
        for hidden in (1, 8, 13, 33):
            for value in (torch.inf, -torch.inf):
                operands = make_operands(hidden, dtype)
                operands[name].view(-1)[-1] = value
                assert_runs_to(as_nn_lstm(operands), operands, backend, f"{name}, {hidden}")


def test_an_infinite_wide_input_leaves_gradients_finite_where_nn_lstm_does(backend):
    operands = make_operands(33, torch.float32, inputs=8000)  # its products are left to PyTorch
    operands["x"].view(-1)[-1] = torch.inf
    assert_runs_to(as_nn_lstm(operands), operands, backend, "x")


@pytest.mark.parametrize("per_sample", [False, True])
def test_infinite_states_and_gradients_meet_a_mask_as_they_meet_detach(backend, per_sample):
    operands = make_operands(3, torch.float32)
    operands["h0"][0, 1, 1] = torch.inf
    steps, rows = operands["x"].shape[:2]
    keep = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    x, h0, c0, *weights = operands.values()
    leaves = [one.requires_grad_() for one in (x, h0[0].detach(), c0[0].detach(), *weights)]

    def gradients(results: tuple[Tensor, ...]) -> list[Tensor]:
        scale = torch.ones(steps, rows, 1)
        scale[3, 0] = torch.inf
        loss = (results[0] * scale).sum() + results[2].sum()
        return [one.detach() for one in (*results, *torch.autograd.grad(loss, leaves))]

    h, c, outputs = leaves[1], leaves[2], []
    for t in range(steps):
        if keep[t] == 0:
            h, c = h.detach(), c.detach()
        h, c = torch.lstm_cell(x[t], (h, c), *weights)
        outputs.append(h)
    expected = gradients((torch.stack(outputs), h, c))
    mask = keep.unsqueeze(1).expand(steps, rows) if per_sample else keep
    found = gradients(hdetach_lstm(*leaves, mask, mask, backend=backend))
    for one, other in zip(found, expected, strict=True):
        finite = other.isfinite()  # infinity or NaN depends on the order of operations
        assert torch.equal(one.isfinite(), finite)
        torch.testing.assert_close(one[finite], other[finite], rtol=1e-4, atol=1e-5)
