"""`HDetachLSTM` and its cell where code expects `nn.LSTM` and `nn.LSTMCell`."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from captioner.errors import OptionError
from captioner.lstm import HDetachLSTM, HDetachLSTMCell, hdetach_lstm
from captioner.lstm.reference import loop

SIZES = (3, 5, 2)  # inputs, hidden units, layers
OPTIONS = [
    dict(zip(("bias", "batch_first", "bidirectional", "proj_size"), values, strict=True))
    for values in itertools.product((True, False), (True, False), (True, False), (0, 2))
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(*sizes, p=0.0, backend="auto", dtype=torch.float64, **common):
    """Return `nn.LSTM` and the layer, with the same weights."""
    theirs = nn.LSTM(*sizes, **common, dtype=dtype)
    ours = HDetachLSTM(*sizes, **common, p=p, backend=backend, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def random_state(lstm, rows, dtype=torch.float64):
    count = lstm.num_layers * (2 if lstm.bidirectional else 1)
    sizes = (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
    return tuple(torch.randn(count, rows, size, dtype=dtype) for size in sizes)


def differentiate(lstm, x, hx):
    """Return results and gradients: those of x, of both states and of all parameters."""
    data = x.data if isinstance(x, PackedSequence) else x
    leaves = [one.detach().clone().requires_grad_() for one in (data, *(hx or ()))]
    given = x._replace(data=leaves[0]) if isinstance(x, PackedSequence) else leaves[0]
    outputs, (h_n, c_n) = lstm(given, tuple(leaves[1:]) or None)
    if isinstance(outputs, PackedSequence):
        outputs, _ = pad_packed_sequence(outputs)
    loss = outputs.square().sum() + h_n.sum() + c_n.square().sum()
    grads = torch.autograd.grad(loss, [*leaves, *lstm.parameters()])
    return [one.detach() for one in (outputs, h_n, c_n, *grads)]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients_are_those_of_nn_lstm(options, backend):
    theirs, ours = pair(*SIZES, **options, backend=backend)
    rows = [torch.randn(length, 3, dtype=torch.float64) for length in (4, 6, 1)]
    packed = pack_sequence(rows, enforce_sorted=False)
    hx, one = random_state(ours, 3), random_state(ours, 1)
    one = tuple(part.squeeze(1) for part in one)
    x = torch.randn(3, 3, 3, dtype=torch.float64)
    for given in ((x, None), (x, hx), (packed, None), (packed, hx), (x[0], None), (x[0], one)):
        assert_same(differentiate(ours, *given), differentiate(theirs, *given))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("lengths", [None, [9, 5, 5, 1]], ids=["full", "packed"])
def test_a_projection_is_detached_as_a_loop_would(backend, lengths):
    shapes = ((9, 4, 3), (4, 2), (4, 5), (20, 3), (20, 2), (20,), (20,), (2, 5))
    tensors = [torch.rand(shape, dtype=torch.float64) - 0.5 for shape in shapes]
    leaves = [one.requires_grad_() for one in tensors]
    x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr = leaves
    keep, cell_keep = (torch.rand(2, 9) < 0.6).double()
    last = torch.tensor(lengths or [9] * 4).unsqueeze(1)
    outputs = []
    for t in range(9):
        entering = h if keep[t] else h.detach(), c if cell_keep[t] else c.detach()
        gates = x[t] @ w_ih.t() + b_ih + entering[0] @ w_hh.t() + b_hh
        i, f, g, o = gates.chunk(4, 1)
        new_c = f.sigmoid() * entering[1] + i.sigmoid() * g.tanh()
        new_h = (o.sigmoid() * new_c.tanh()) @ w_hr.t()
        h, c = torch.where(t < last, new_h, h), torch.where(t < last, new_c, c)
        outputs.append(torch.where(t < last, new_h, 0.0))
    expected = torch.stack(outputs), h, c
    lengths = None if lengths is None else torch.tensor(lengths)
    found = hdetach_lstm(*leaves[:7], keep, cell_keep, backend=backend, lengths=lengths, w_hr=w_hr)
    assert_same(found, expected)
    grads = [torch.randn_like(one) for one in expected]
    assert_same(
        torch.autograd.grad(found, leaves, grads), torch.autograd.grad(expected, leaves, grads)
    )


@pytest.mark.parametrize("backend", ["auto", "cpu", "torch", "reference"])
def test_layers_with_projections_detach_and_pick_a_backend_that_can(backend):
    layer = HDetachLSTM(3, 5, proj_size=2, p=0.5, backend=backend, dtype=torch.float64)
    x, keep = torch.randn(7, 2, 3, dtype=torch.float64), (torch.rand(7) < 0.5).double()
    zeros = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64)
    *weights, w_hr = layer.parameters()
    expected, _, _ = loop(x, *zeros, *weights, keep, None, w_hr=w_hr)
    found, _ = layer(x, keep=keep)
    parameters = list(layer.parameters())
    assert_same(
        torch.autograd.grad(found.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
    )


def test_they_are_instances_of_what_they_stand_in_for():
    layer, cell = HDetachLSTM(*SIZES), HDetachLSTMCell(3, 5)
    assert isinstance(layer, nn.LSTM)
    assert isinstance(cell, nn.LSTMCell)
    x = torch.randn(4, 2, 3)
    hx = random_state(layer, 2, torch.float32)
    assert_same(layer(input=x, hx=hx), layer(x, hx))
    state = hx[0][0], hx[1][0]
    assert_same(cell(input=x[0], hx=state), cell(x[0], state))
    assert HDetachLSTM(3, 5, 1, True, False, 0.0, False, 2).proj_size == 2


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_checks_and_sizes_of_nn_lstm_are_there(options):
    theirs, ours = pair(*SIZES, **options)
    rows = [torch.randn(length, 3, dtype=torch.float64) for length in (4, 2)]
    packed = pack_sequence(rows)
    x, order = torch.randn(4, 2, 3, dtype=torch.float64), torch.tensor([1, 0])
    hx = random_state(ours, 2)
    for given in ((x, None), (packed.data, packed.batch_sizes)):
        for name in ("get_expected_hidden_size", "get_expected_cell_size"):
            assert getattr(ours, name)(*given) == getattr(theirs, name)(*given)
    assert_same(ours.permute_hidden(hx, order), theirs.permute_hidden(hx, order))
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    assert ours.all_weights[1][0].shape == theirs.all_weights[1][0].shape
    ours.flatten_parameters()
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("change", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_copies_compute_the_same_and_share_nothing(change, proj_size):
    layer = HDetachLSTM(*SIZES, bidirectional=True, proj_size=proj_size, p=1.0)
    other = change(layer)
    x = torch.randn(4, 2, 3)
    assert_same(differentiate(other, x, None), differentiate(layer, x, None))
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert layer.weight_hh_l0.any()
    assert other._flat_weights[1] is other.weight_hh_l0


def test_replaced_and_borrowed_weights_are_used():
    theirs, ours = pair(3, 5)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for lstm in (theirs, ours):
        lstm.weight_ih_l0 = nn.Parameter(torch.full((20, 3), 0.1, dtype=torch.float64))
    assert_same(ours(x), theirs(x))
    single = theirs.to(torch.float32)(x.float())
    torch.testing.assert_close(ours.to(torch.float32)(x.float()), single)


def test_a_layer_whose_parameters_a_wrapper_took_has_a_text():
    layer = HDetachLSTM(3, 5, backend="torch")
    for name in [*layer._parameters]:
        delattr(layer, name)
    assert repr(layer) == "HDetachLSTM(3, 5, backend=torch)"


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_the_meta_device_gives_shapes(backend, proj_size):
    with torch.device("meta"):
        layer = HDetachLSTM(*SIZES, bidirectional=True, p=0.5, backend=backend, proj_size=proj_size)
        theirs = nn.LSTM(*SIZES, bidirectional=True, proj_size=proj_size)
        for x in (torch.ones(4, 2, 3), torch.ones(4, 3)):
            found, expected = layer(x), theirs(x)
            assert found[0].shape == expected[0].shape
            assert found[0].device.type == "meta"
            assert [one.shape for one in found[1]] == [one.shape for one in expected[1]]
        packed = PackedSequence(torch.ones(6, 3), torch.tensor([2, 2, 1, 1], device="cpu"))
        found, (h_n, c_n) = layer(packed)
        found.data.sum().backward()
        assert found.data.shape == (6, 2 * (proj_size or 5))
        assert h_n.shape == (4, 2, proj_size or 5)
        assert c_n.shape == (4, 2, 5)
        assert layer.weight_hh_l0.grad.shape == layer.weight_hh_l0.shape


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("sorted_", [True, False])
def test_under_a_default_device_and_autocast_packed_rows_come_back(backend, sorted_):
    rows = [torch.randn(length, 3) for length in ((6, 4, 1) if sorted_ else (4, 6, 1))]
    packed = pack_sequence(rows, enforce_sorted=sorted_)
    layer = HDetachLSTM(*SIZES, bidirectional=True, p=0.5, backend=backend)
    hx = random_state(layer, 3, torch.float32)
    expected, _ = layer(packed, hx)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (None, hx, tuple(one.bfloat16() for one in hx)):
            outputs, (h_n, c_n) = layer(packed, given)
            assert {one.dtype for one in (outputs.data, h_n, c_n)} == {torch.bfloat16}
        layer(packed._replace(data=packed.data.bfloat16()))
    torch.testing.assert_close(outputs.data.float(), expected.data, rtol=0.1, atol=0.02)
    outputs.data.float().sum().backward()
    assert layer.weight_hh_l0.grad.dtype == torch.float32
    with torch.device("meta"):  # of what the caller makes; what is here stays on the CPU
        assert_same(layer(packed, hx)[0].data, expected.data)


def raised_by(call, *given, **options):
    with pytest.raises((RuntimeError, ValueError, TypeError, AttributeError)) as problem:
        call(*given, **options)
    return problem


@pytest.mark.parametrize(
    "call",
    [
        lambda lstm: lstm(torch.ones(5, 2, 3).int()),
        lambda lstm: lstm(torch.ones(5, 2, 3), random_state(lstm, 2)),
        lambda lstm: lstm(torch.ones(5, 2, 3), random_state(lstm, 3, torch.float32)),
        lambda lstm: lstm(torch.ones(5, 2, 3), torch.ones(2, 2, 5)),
        lambda lstm: lstm(torch.ones(5, 2, 3, device="meta")),
        lambda lstm: lstm.to("meta")(torch.ones(5, 2, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("proj_size", [0, 2])
def test_a_wrong_call_raises_the_type_that_nn_lstm_raises(call, proj_size):
    theirs = raised_by(call, nn.LSTM(*SIZES, proj_size=proj_size))
    ours = raised_by(call, HDetachLSTM(*SIZES, proj_size=proj_size, p=0.5))
    kind = RuntimeError if isinstance(theirs.value, NotImplementedError) else theirs.type
    assert isinstance(ours.value, kind), f"{ours.value!r} beside {theirs.value!r}"


@pytest.mark.parametrize(
    "given",
    [
        (torch.ones(2, 4),),
        (torch.ones(2, 3).double(),),
        (torch.ones(2, 2, 3),),
        (torch.ones(2, 3), (torch.ones(3, 5), torch.ones(3, 5))),
        (torch.ones(2, 3), (torch.ones(2, 4), torch.ones(2, 4))),
        (torch.ones(2, 3), (torch.ones(2, 5), torch.ones(2, 4))),
        (torch.ones(2, 3), (torch.ones(5), torch.ones(5))),
        (torch.ones(2, 3), (torch.ones(1, 2, 5), torch.ones(1, 2, 5))),
        (torch.ones(3), (torch.ones(2, 5), torch.ones(2, 5))),
    ],
)  # fmt: skip
def test_a_wrong_call_of_the_cell_raises_the_type_that_nn_lstmcell_raises(given):
    theirs, ours = (raised_by(cell, *given) for cell in (nn.LSTMCell(3, 5), HDetachLSTMCell(3, 5)))
    assert isinstance(ours.value, theirs.type), f"{ours.value!r} beside {theirs.value!r}"


@pytest.mark.parametrize("options", [{"proj_size": 5}, {"proj_size": -1}, {"dropout": 2.0},
                                     {"num_layers": 0}, {"bias": 1}])  # fmt: skip
def test_a_wrong_option_raises_what_nn_lstm_raises(options):
    found = [raised_by(kind, 3, 5, **options) for kind in (nn.LSTM, HDetachLSTM)]
    assert found[0].type is found[1].type
    assert str(found[0].value) == str(found[1].value)


def test_what_does_not_fit_is_an_option_error_and_a_runtime_error():
    layer = HDetachLSTM(3, 5)
    for kind in (OptionError, RuntimeError):
        with pytest.raises(kind, match="keep has shape"):
            layer(torch.ones(4, 2, 3), keep=torch.ones(3))


def test_a_number_damps_in_the_precision_of_the_layer():
    layer = HDetachLSTM(3, 5, p=0.3, cell_p=0.2, damping=True, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    factors = {"keep": 1.0 - 0.3, "cell_keep": 1.0 - 0.2}
    masks = {name: torch.full((6,), one, dtype=torch.float64) for name, one in factors.items()}
    weights, state = list(layer.parameters()), random_state(layer, 2)
    expected = torch.autograd.grad(layer(x, **masks)[0].square().sum(), weights)
    assert_same(torch.autograd.grad(layer(x)[0].square().sum(), weights), expected)
    cell = HDetachLSTMCell(3, 5, dtype=torch.float64)
    h, c = (one[0].requires_grad_() for one in state)
    plain = torch.autograd.grad(sum(cell(x[0], (h, c))).sum(), (h, c))
    damped = torch.autograd.grad(sum(cell(x[0], (h, c), **factors)).sum(), (h, c))
    assert_same(damped, (0.7 * plain[0], 0.8 * plain[1]))


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "proj_size": 2, "bias": False}])
def test_to_lstm_gives_an_nn_lstm_of_its_own_with_the_same_weights(options):
    layer = HDetachLSTM(*SIZES, dropout=0.5, p=0.5, dtype=torch.float64, **options).eval()
    layer.weight_ih_l0.requires_grad_(False)
    before = torch.get_rng_state()
    lstm = layer.to_lstm()
    assert torch.equal(torch.get_rng_state(), before)
    assert type(lstm) is nn.LSTM
    assert not lstm.training
    assert lstm.dropout == 0.5
    assert [one.requires_grad for one in lstm.parameters()] == [
        one.requires_grad for one in layer.parameters()
    ]
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert_same(lstm(x), layer(x))
    expected = layer(x)[0].detach()
    with torch.no_grad():
        lstm.weight_hh_l0.zero_()
    assert_same(layer(x)[0], expected)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = HDetachLSTM(*SIZES, p=0.5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.filterwarnings("ignore")  # of functions that torch is about to retire
@pytest.mark.parametrize("what", ["trace", "script", "quantize", "onnx"])
def test_a_model_is_traced_quantised_and_exported_by_way_of_to_lstm(what, tmp_path):
    model, x = Model().eval(), torch.randn(2, 4, 3)
    expected = model(x).detach()
    model.lstm = model.lstm.to_lstm()
    if what == "trace":
        other = torch.jit.trace(model, x)
    elif what == "script":
        other = torch.jit.script(model)
    elif what == "quantize":
        other = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.Linear})
        assert type(other.lstm) is not nn.LSTM
    else:
        pytest.importorskip("onnx", reason="onnx is not installed")
        torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=False)
        assert (tmp_path / "model.onnx").stat().st_size > 500
        return
    tolerance = 0.05 if what == "quantize" else 1e-6
    torch.testing.assert_close(other(x), expected, rtol=tolerance, atol=tolerance)
