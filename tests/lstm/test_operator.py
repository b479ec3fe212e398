"""The operator on each backend against the loop with `.detach()`: values and every gradient."""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from captioner.errors import CaptionerError, OptionError
from captioner.lstm import HDetachLSTM, backends
from captioner.lstm.operator import hdetach_lstm

BACKENDS = [name for name in ("torch", "cpu") if backends.load(name).missing() is None]

# T, B, I, H: each odd size at least once, and both ends of the time axis.
SIZES = [
    (1, 1, 1, 1),
    (1, 3, 2, 128),
    (7, 100, 3, 100),
    (40, 3, 5, 7),
    (300, 3, 1, 7),
    (300, 1, 2, 1),
    (65, 100, 1, 128),
]

MASKS: dict[str, Callable[[int, int], tuple[Tensor | None, Tensor | None]]] = {
    "none": lambda steps, rows: (None, None),  # noqa: ARG005
    "ones": lambda steps, rows: (torch.ones(steps), torch.ones(steps)),  # noqa: ARG005
    "zeros": lambda steps, rows: (torch.zeros(steps), None),  # noqa: ARG005
    "all zeros": lambda steps, rows: (torch.zeros(steps), torch.zeros(steps)),  # noqa: ARG005
    "shared": lambda steps, rows: ((torch.rand(steps) < 0.5).float(), None),  # noqa: ARG005
    "fractional": lambda steps, rows: (torch.full((steps,), 0.75), torch.rand(steps)),  # noqa: ARG005
    "per sample": lambda steps, rows: (
        (torch.rand(steps, rows) < 0.5).float(),
        torch.rand(steps, rows),
    ),
    "booleans": lambda steps, rows: (torch.rand(steps, rows) < 0.5, torch.rand(steps) < 0.5),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def arguments(steps, rows, inputs, size, dtype=torch.float64):
    """Return x, h0, c0 and the weights, as a trained layer might have them."""
    bound = size**-0.5
    return [
        torch.randn(steps, rows, inputs, dtype=dtype),
        torch.rand(rows, size, dtype=dtype) - 0.5,
        torch.rand(rows, size, dtype=dtype) - 0.5,
        *(
            torch.empty(shape, dtype=dtype).uniform_(-bound, bound)
            for shape in ((4 * size, inputs), (4 * size, size), (4 * size,), (4 * size,))
        ),
    ]


def differentiate(tensors, grads, *masks, **options):
    """Return the three results and the gradients of all seven tensors."""
    leaves = [one.clone().requires_grad_() for one in tensors]
    results = hdetach_lstm(*leaves, *masks, **options)
    found = torch.autograd.grad(
        [result for result, grad in zip(results, grads, strict=True) if grad is not None],
        leaves,
        [grad for grad in grads if grad is not None],
        allow_unused=True,
        materialize_grads=True,
    )
    return [one.detach() for one in (*results, *found)]


def assert_close(found, expected, tolerance):
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        difference = (one.double() - other).abs().max()
        assert difference <= tolerance * other.abs().max().clamp_min(1e-3), number


def results_like(tensors):
    x, h0, c0, *_ = tensors
    return torch.randn(len(x), *h0.shape).double(), torch.randn_like(h0), torch.randn_like(c0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_backend_equals_the_loop_at_odd_sizes(sizes, backend):
    tensors = arguments(*sizes)
    grads, masks = results_like(tensors), MASKS["shared"](sizes[0], sizes[1])
    expected = differentiate(tensors, grads, *masks, backend="reference")
    if backends.load(backend).unsupported(torch.device("cpu"), torch.float64) is None:
        found = differentiate(tensors, grads, *masks, backend=backend)
        assert_close(found, expected, 1e-12)
    single, single_grads = ([one.float() for one in many] for many in (tensors, grads))
    found = differentiate(single, single_grads, *masks, backend=backend)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [None, [12, 7, 7, 1]], ids=["full", "packed"])
@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_gives_the_gradients_of_the_loop(kind, lengths, backend):
    tensors = arguments(12, 4, 3, 5)
    grads, masks = results_like(tensors), MASKS[kind](12, 4)
    lengths = None if lengths is None else torch.tensor(lengths)
    expected = differentiate(tensors, grads, *masks, backend="reference", lengths=lengths)
    single, single_grads = ([one.float() for one in many] for many in (tensors, grads))
    found = differentiate(single, single_grads, *masks, backend=backend, lengths=lengths)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("asked", [*itertools.product([1, 0], repeat=3)][:-1], ids=str)
def test_results_that_nobody_differentiates_do_not_matter(asked, backend):
    tensors = arguments(6, 3, 2, 4)
    grads = [grad if ask else None for grad, ask in zip(results_like(tensors), asked, strict=True)]
    zeros = [torch.zeros_like(grad) for grad in results_like(tensors)]
    filled = [zero if grad is None else grad for grad, zero in zip(grads, zeros, strict=True)]
    keep = torch.tensor([1.0, 1, 0, 1, 0, 1])
    expected = differentiate(tensors, filled, keep, backend="reference")
    single = [one.float() for one in tensors]
    single_grads = [None if one is None else one.float() for one in grads]
    assert_close(differentiate(single, single_grads, keep, backend=backend), expected, 1e-5)


def by_hand(tensors, detached):
    """Algorithm 1 with `.detach()` itself, on cells of torch's own."""
    x, h, c, w_ih, w_hh, b_ih, b_hh = tensors
    outputs = []
    for t in range(len(x)):
        entering = h.detach() if detached[t] else h
        h, c = torch.lstm_cell(x[t], (entering, c), w_ih, w_hh, b_ih, b_hh)
        outputs.append(h)
    return torch.stack(outputs), h, c


def test_the_reference_is_algorithm_1():
    tensors, detached = (
        arguments(9, 3, 2, 4),
        [True, False, True, True, False, False, True] + [0] * 2,
    )
    grads = results_like(tensors)
    leaves = [one.requires_grad_() for one in tensors]
    results = by_hand(leaves, detached)
    found = torch.autograd.grad(results, leaves, grads, allow_unused=True, materialize_grads=True)
    keep = 1.0 - torch.tensor(detached, dtype=torch.float64)
    other = differentiate([one.detach() for one in tensors], grads, keep, backend="reference")
    assert_close([one.detach() for one in (*results, *found)], other, 1e-13)
    assert torch.equal(other[4], torch.zeros(3, 4))  # the first step is detached: nothing for h0


@pytest.mark.parametrize("backend", BACKENDS)
def test_keeping_all_gives_the_gradients_that_finite_differences_give(backend):
    if backends.load(backend).unsupported(torch.device("cpu"), torch.float64) is not None:
        pytest.skip("this backend has no float64")
    tensors = [one.requires_grad_() for one in arguments(4, 2, 3, 3)]
    assert torch.autograd.gradcheck(
        lambda *all_: hdetach_lstm(*all_, None, backend=backend), tensors
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of the check itself
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_operators_are_registered_as_torch_wants_them(backend, packed):
    tensors = [one.float().requires_grad_() for one in arguments(5, 3, 2, 4)]
    keep = torch.tensor([1.0, 0, 1, 0.5, 1])
    lengths = torch.tensor([5, 4, 1]) if packed else None
    given = (*tensors, None, lengths, False, keep, None, backend, True)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if backend == "torch" or not packed:
        # It compares workspaces too, and where rows have ended theirs may hold anything.
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.captioner.hdetach_lstm, given, test_utils=checks)
    plain = [one.detach() for one in tensors]
    outputs, _, _, *workspaces = torch.ops.captioner.hdetach_lstm(
        *plain, None, lengths, False, keep, None, backend, True
    )
    given = (*plain, None, lengths, False, keep, None, backend)
    grads = (torch.ones_like(outputs), None, None, outputs, *workspaces)
    needs = [False, True, True, True, True, True, True, False]
    torch.library.opcheck(torch.ops.captioner.hdetach_lstm_backward, (*given, *grads, needs))


@pytest.mark.parametrize("kind", ["auto", "torch", "projection"])
def test_it_compiles_into_one_graph(kind):
    tensors = [one.float() for one in arguments(5, 3, 2, 4)]
    if kind == "projection":
        tensors[1], tensors[4] = tensors[1][:, :2], tensors[4][:, :2]
        tensors.append(torch.randn(2, 4))
    tensors = [one.clone().requires_grad_() for one in tensors]
    keep = torch.tensor([1.0, 0, 1, 0.5, 1])

    def loss(*tensors):
        w_hr, backend = (tensors[7], "auto") if kind == "projection" else (None, kind)
        outputs, _, c_n = hdetach_lstm(*tensors[:7], keep, backend=backend, w_hr=w_hr)
        return outputs.square().sum() + c_n.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*tensors), tensors)
    for one, other in zip(found, torch.autograd.grad(loss(*tensors), tensors), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_a_second_derivative_is_an_error_not_a_wrong_number(backend):
    x, *others = arguments(4, 2, 2, 3)
    x.requires_grad_()
    weight = others[3].requires_grad_()
    outputs, _, _ = hdetach_lstm(x, *others, torch.ones(4), backend=backend)
    (grad,) = torch.autograd.grad(outputs.square().sum(), x, create_graph=True)
    with pytest.raises(CaptionerError, match="has no second derivative"):
        grad.square().sum().backward()
    assert weight.grad is None


def test_the_registered_backward_operator_has_no_derivative_either():
    tensors = arguments(4, 2, 2, 3)
    given = (*tensors, None, None, False, None, None, "torch")
    outputs, _, _, *workspaces = torch.ops.captioner.hdetach_lstm(*given, True)
    grad = torch.ones_like(outputs).requires_grad_()
    grads = torch.ops.captioner.hdetach_lstm_backward(
        *given, grad, None, None, outputs, *workspaces, [True] * 7 + [False]
    )
    with pytest.raises(CaptionerError, match="has no second derivative"):
        grads[0].sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_graph_can_be_used_twice(backend):
    tensors = [one.float().requires_grad_() for one in arguments(6, 3, 2, 4)]
    outputs, _, c_n = hdetach_lstm(*tensors, torch.rand(6), backend=backend)
    total = outputs.square().sum() + c_n.sum()
    first = torch.autograd.grad(total, tensors, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(total, tensors), strict=True):
        assert torch.equal(one, other)


def storages(tensors):
    return [one.untyped_storage().data_ptr() for one in tensors]


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("sizes", [(6, 3, 2, 4), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_no_argument_is_written_to_and_no_results_or_gradients_share_memory(
    backend, sizes, compiled
):
    tensors = [one.float() for one in arguments(*sizes)]
    before = [one.clone() for one in tensors]
    leaves = [one.requires_grad_() for one in tensors]
    run = functools.partial(hdetach_lstm, backend=backend)
    if compiled:
        if backend != "torch":
            pytest.skip("compilation is the same for all")
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    results = run(*leaves, torch.rand(sizes[0]))
    ones = [torch.ones_like(one) for one in results]
    grads = torch.autograd.grad(results, leaves, ones)
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))
    places = storages([*tensors, *results, *ones, *grads])
    assert len(set(places)) == len(places)
    assert torch.equal(grads[5], grads[6])


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradients_that_parameters_hold_share_no_memory(backend):
    layer = HDetachLSTM(2, 3, 2, backend=backend, p=0.5)
    for _ in range(2):  # the second pass adds to what the first left
        layer(torch.randn(5, 2, 2))[0].sum().backward()
        places = storages([one.grad for one in layer.parameters()])
        assert len(set(places)) == len(places)
    expected = layer.bias_ih_l0.grad.clone()
    layer.bias_hh_l0.grad.mul_(0.5)
    assert torch.equal(layer.bias_ih_l0.grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tensors_of_zeros_for_biases_and_frozen_weights(backend):
    tensors = [one.float() for one in arguments(6, 3, 2, 4)]
    x, h0, c0, w_ih, w_hh, _, b_hh = tensors
    w_hh.requires_grad_()
    for b_ih, other_bias in ((None, None), (None, b_hh), (b_hh, None)):
        results, expected = (
            torch.autograd.grad(
                hdetach_lstm(x, h0, c0, w_ih, w_hh, b_ih, other_bias, None, backend=name)[0].sum(),
                w_hh,
            )[0]
            for name in (backend, "reference")
        )
        torch.testing.assert_close(results, expected)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_an_empty_batch_gives_empty_results(backend):
    outputs, h_n, _ = hdetach_lstm(*arguments(3, 0, 2, 4), None, backend=backend)
    assert outputs.shape == (3, 0, 4)
    assert h_n.shape == (0, 4)


def test_autocast_computes_in_float32_and_returns_its_own_dtype():
    tensors = [one.float().requires_grad_() for one in arguments(6, 3, 2, 4)]
    expected = hdetach_lstm(*tensors, None)[0]
    with torch.autocast("cpu", torch.bfloat16):
        for backend in ("torch", "auto", "reference"):
            outputs, h_n, c_n = hdetach_lstm(*tensors, None, backend=backend)
            assert outputs.dtype == h_n.dtype == c_n.dtype == torch.bfloat16
            assert torch.equal(outputs, expected.bfloat16())
        mixed = hdetach_lstm(tensors[0].bfloat16(), *tensors[1:], None)[0]
        assert mixed.dtype == torch.bfloat16
    outputs.sum().backward()
    assert all(one.grad is not None and one.grad.dtype == torch.float32 for one in tensors)


def test_half_precision_comes_back_as_it_was():
    tensors = [one.bfloat16().requires_grad_() for one in arguments(6, 3, 2, 4)]
    outputs, _, _ = hdetach_lstm(*tensors, torch.ones(6))
    expected = hdetach_lstm(*(one.float() for one in tensors), None)[0]
    assert torch.equal(outputs, expected.bfloat16())
    outputs.sum().backward()
    assert tensors[4].grad is not None
    assert tensors[4].grad.dtype == torch.bfloat16


def test_functional_transforms_see_the_same_gradient():
    tensors = [one.float() for one in arguments(6, 3, 2, 4)]
    keep = torch.tensor([1.0, 0, 1, 0, 0, 1])

    def loss(weight):
        return hdetach_lstm(*tensors[:4], weight, *tensors[5:], keep)[0].square().sum()

    expected = torch.autograd.grad(loss(weight := tensors[4].clone().requires_grad_()), weight)[0]
    assert torch.equal(torch.func.grad(loss)(tensors[4]), expected)
    with pytest.raises(CaptionerError, match="no second derivative"):
        torch.func.grad(lambda one: torch.func.grad(loss)(one).sum())(tensors[4])


def test_rounding_the_large_products_is_asked_for_and_small():
    tensors = [one.float() for one in arguments(6, 8, 32, 16)]
    grads = [one.float() for one in results_like(tensors)]
    exact = differentiate(tensors, grads, None, backend="torch")
    rounded = differentiate(tensors, grads, None, backend="torch", precision="bf16")
    assert not torch.equal(exact[6], rounded[6])
    assert_close(rounded, [one.double() for one in exact], 2e-2)


def wrong(**changes):
    names = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")
    given = dict(zip(names, (one.float() for one in arguments(5, 3, 2, 4)), strict=True))
    given["keep"] = None
    return hdetach_lstm(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3, 2)}, r"x has shape \[3, 2\]; it must be \[T, B, I\]"),
        ({"x": torch.ones(0, 3, 2)}, r"x has shape \[0, 3, 2\]; .* T and I at least 1"),
        ({"x": torch.ones(5, 3, 2, dtype=torch.int64)}, "x is torch.int64; .* floating point"),
        ({"h0": torch.ones(4)}, r"h0 has shape \[4\]; it must be \[B, H\]"),
        ({"c0": torch.ones(2, 4)}, r"c0 has shape \[2, 4\]; .* it must be \[3, 4\]"),
        ({"w_hh": torch.ones(4, 4)}, r"w_hh has shape \[4, 4\]; .* it must be \[16, 4\]"),
        ({"b_ih": torch.ones(15)}, r"b_ih has shape \[15\]; .* it must be \[16\]"),
        ({"c0": torch.ones(3, 4).double()}, "c0 is torch.float64 .* x is torch.float32"),
        ({"keep": torch.ones(4)}, r"keep has shape \[4\]; it must be \[T\] = \[5\] or \[T, B\]"),
        ({"cell_keep": torch.ones(5, 2)}, r"cell_keep has shape \[5, 2\]; .* \[5, 3\]"),
        ({"keep": torch.full((5,), 1.5)}, "keep holds 1.5; its values lie between 0 and 1"),
        ({"keep": torch.full((5,), float("nan"))}, "keep holds nan"),
        ({"cell_keep": torch.full((5, 3), -1.0)}, r"cell_keep holds -1.0"),
        ({"lengths": torch.tensor([5, 2])}, r"lengths has shape \[2\] .* \[B\] = \[3\]"),
        ({"lengths": torch.tensor([2, 5, 1])}, r"lengths is \[2, 5, 1\]; it must be decreasing"),
        ({"lengths": torch.tensor([6, 5, 1])}, "between 1 and T = 5"),
        ({"lengths": torch.tensor([5, 5, 0])}, "between 1 and T = 5"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of auto, reference, torch, cpu"),
        ({"precision": "fp8"}, "precision is 'fp8'; choose one of full, bf16"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_an_argument_that_does_not_fit_is_named_with_what_would(changes, message):
    with pytest.raises(OptionError, match=message):
        wrong(**changes)


def test_without_a_compiler_torch_steps_in_and_says_so_once(monkeypatch, caplog):
    cpu = backends.load("cpu")
    monkeypatch.setattr(cpu, "missing", lambda: "no C++ compiler was found")
    backends._why_missing.cache_clear()
    try:
        for name in ("auto", "cpu", "auto"):
            assert backends.resolve(name, torch.device("cpu"), torch.float32) == "torch"
        assert [record.message for record in caplog.records] == [
            "no C++ compiler was found; the LSTM runs on the backend torch, which is slower"
        ]
    finally:
        backends._why_missing.cache_clear()


def test_a_backend_of_another_device_is_an_error():
    with pytest.raises(OptionError, match=r"backend 'cpu' .*; choose auto, which finds one"):
        backends.resolve("cpu", torch.device("cuda"), torch.float32)
