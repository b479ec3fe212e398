"""`HDetachLSTM` beside `nn.LSTM`: the same from outside, and h-detach within."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from captioner.errors import OptionError
from captioner.lstm import HDetachLSTM, sample_keep
from captioner.lstm.reference import loop


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(*arguments, p=0.4, dtype=torch.float64, backend="torch", options=None, **common):
    """Return `nn.LSTM` and the layer, with the same weights."""
    ours = HDetachLSTM(*arguments, **common, p=p, dtype=dtype, backend=backend, **(options or {}))
    theirs = nn.LSTM(*arguments, **common, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_one_seed_gives_the_weights_of_nn_lstm(bias, bidirectional):
    torch.manual_seed(3)
    theirs = nn.LSTM(3, 5, 2, bias=bias, bidirectional=bidirectional)
    torch.manual_seed(3)
    ours = HDetachLSTM(3, 5, 2, bias=bias, bidirectional=bidirectional, p=0.5)
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(
    ("layers", "bias", "bidirectional", "batch_first"),
    [
        (1, True, False, False),
        (2, True, True, True),
        (3, False, False, True),
        (2, False, True, False),
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_values_are_those_of_nn_lstm_whatever_p_is(layers, bias, bidirectional, batch_first, p):
    theirs, ours = pair(
        3, 5, layers, bias=bias, bidirectional=bidirectional, batch_first=batch_first, p=p
    )
    x = torch.randn(4, 4, 3, dtype=torch.float64)
    directions = 2 if bidirectional else 1
    state = tuple(torch.randn(layers * directions, 4, 5, dtype=torch.float64) for _ in range(2))
    for module in (ours.train(), ours.eval()):
        assert_same(module(x), theirs(x))
        assert_same(module(x, state), theirs(x, state))
        assert_same(module(x[0]), theirs(x[0]))
        one = tuple(part[:, 0] for part in state)
        assert_same(module(x[0], one), theirs(x[0], one))


def by_hand(layer, x, masks):
    """Stack and turn around loops with `.detach()`; masks[layer] serves both directions."""
    for number in range(layer.num_layers):
        results = []
        for suffix in ("", "_reverse") if layer.bidirectional else ("",):
            weights = [
                getattr(layer, f"{kind}_l{number}{suffix}")
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            zeros = x.new_zeros(x.shape[1], layer.hidden_size)
            outputs, _, _ = loop(
                x.flip(0) if suffix else x, zeros, zeros, *weights, masks[number], None
            )
            results.append(outputs.flip(0) if suffix else outputs)
        x = torch.cat(results, dim=2)
    return x


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layer_masks", ["shared", "independent"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_layers_share_or_draw_and_each_direction_detaches_in_its_own_order(
    bidirectional, layer_masks, per_sample
):
    layer = HDetachLSTM(
        3,
        4,
        2,
        bidirectional=bidirectional,
        p=0.5,
        layer_masks=layer_masks,
        per_sample=per_sample,
        generator=torch.Generator().manual_seed(7),
        dtype=torch.float64,
    )
    x = torch.randn(8, 3, 3, dtype=torch.float64)
    again = torch.Generator().manual_seed(7)
    rows = 3 if per_sample else None
    masks = [
        sample_keep(8, 0.5, batch_size=rows, generator=again)
        for _ in range(2 if layer_masks == "independent" else 1)
    ] * 2
    parameters = list(layer.parameters())
    found = torch.autograd.grad(layer(x)[0].square().sum(), parameters)
    expected = torch.autograd.grad(by_hand(layer, x, masks).square().sum(), parameters)
    assert_same(found, expected)
    given = masks[0] if layer_masks == "shared" else masks[:2]
    assert_same(torch.autograd.grad(layer(x, keep=given)[0].square().sum(), parameters), expected)


def test_a_mask_has_its_columns_in_the_callers_order_also_when_packed():
    layer = HDetachLSTM(3, 4, backend="torch", dtype=torch.float64)
    rows = [torch.randn(length, 3, dtype=torch.float64) for length in (4, 6, 1)]
    keep = torch.rand(6, 3)
    parameters = list(layer.parameters())
    packed = pack_sequence(rows, enforce_sorted=False)
    found = torch.autograd.grad(layer(packed, keep=keep)[0].data.square().sum(), parameters)
    alone = sum(
        layer(row, keep=keep[: len(row), number])[0].square().sum()
        for number, row in enumerate(rows)
    )
    assert_same(found, torch.autograd.grad(alone, parameters))


def weight_gradient(layer, x, **masks):
    layer.zero_grad()
    layer(x, **masks)[0].square().sum().backward()
    return layer.weight_hh_l0.grad.clone()


def test_damping_multiplies_by_what_draws_give_on_average():
    layer = HDetachLSTM(3, 4, p=0.3, cell_p=0.2, damping=True)
    x = torch.randn(6, 2, 3)
    masks = {"keep": torch.full((6,), 0.7), "cell_keep": torch.full((6,), 0.8)}
    assert torch.equal(weight_gradient(layer, x), weight_gradient(layer, x, **masks))


def test_the_cell_path_is_drawn_apart():
    layer = HDetachLSTM(3, 4, cell_p=1.0)
    x = torch.randn(6, 2, 3)
    expected = weight_gradient(layer, x, cell_keep=torch.zeros(6))
    assert torch.equal(weight_gradient(layer, x), expected)
    layer.cell_p = 0.0
    assert not torch.equal(weight_gradient(layer, x), expected)


def test_evaluation_never_detaches_and_draws_nothing():
    generator = torch.Generator().manual_seed(1)
    layer = HDetachLSTM(3, 4, p=1.0, cell_p=1.0, generator=generator).eval()
    before, x = generator.get_state(), torch.randn(6, 2, 3)
    plain = weight_gradient(layer, x, keep=torch.zeros(6))
    assert torch.equal(generator.get_state(), before)
    layer.p = layer.cell_p = 0.0
    assert torch.equal(weight_gradient(layer.train(), x), plain)


def test_every_pass_draws_anew_and_a_generator_repeats_them():
    generator = torch.Generator()
    layer = HDetachLSTM(3, 4, p=0.5, generator=generator)
    x = torch.randn(20, 2, 3)
    generator.manual_seed(5)
    first, second = weight_gradient(layer, x), weight_gradient(layer, x)
    assert not torch.equal(first, second)
    generator.manual_seed(5)
    assert torch.equal(weight_gradient(layer, x), first)


def test_without_a_generator_draws_follow_torchs_seed():
    layer, x = HDetachLSTM(3, 4, p=0.5), torch.randn(20, 2, 3)
    torch.manual_seed(5)
    first = weight_gradient(layer, x)
    torch.manual_seed(5)
    assert torch.equal(weight_gradient(layer, x), first)


def test_dropout_between_layers_is_that_of_nn_lstm():
    theirs, ours = pair(3, 4, 3, dropout=0.5, p=0.5)
    ours.generator = torch.Generator()
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    torch.manual_seed(5)
    expected, _ = theirs(x)
    torch.manual_seed(5)
    assert_same(ours(x)[0], expected)
    assert_same(ours.eval()(x)[0], theirs.eval()(x)[0])


def test_copies_carry_the_generator_with_its_state():
    layer = HDetachLSTM(3, 4, p=0.5, generator=torch.Generator().manual_seed(9))
    x = torch.randn(20, 2, 3)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = weight_gradient(layer, x)
    for one in copies:
        assert torch.equal(weight_gradient(one, x), expected)
        assert one.generator is not layer.generator
        assert repr(one) == repr(layer)


def test_functional_call_uses_the_parameters_it_is_given():
    layer = HDetachLSTM(3, 4, 2)
    x, other = torch.randn(6, 2, 3), HDetachLSTM(3, 4, 2)
    weights = dict(other.named_parameters())
    assert torch.equal(torch.func.functional_call(layer, weights, (x,))[0], other(x)[0])
    keep = torch.tensor([1.0, 0, 0, 1, 0, 1])

    def loss(weights):
        return torch.func.functional_call(layer, weights, (x,), {"keep": keep})[0].square().sum()

    found = torch.func.grad(loss)(weights)["weight_hh_l0"]
    assert_same(found, weight_gradient(other, x, keep=keep), 1e-6)


def compiled_gradients(layer, x, **options):
    module = torch.compile(layer, backend="aot_eager", **options) if options else layer
    torch.manual_seed(5)
    layer.zero_grad()
    module(x)[0].square().sum().backward()
    return [one.grad.clone() for one in layer.parameters()]


def test_it_compiles_into_one_graph_and_draws_as_before():
    layer = HDetachLSTM(3, 4, bidirectional=True, batch_first=True, p=0.5)
    x = torch.randn(2, 6, 3)
    # Dynamo leaves out whatever is an nn.LSTM, unless told otherwise.
    with torch._dynamo.config.patch(allow_rnn=True):
        found = compiled_gradients(layer, x, fullgraph=True)
    assert_same(found, compiled_gradients(layer, x), 1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of Dynamo itself
def test_a_compiled_model_runs_the_layer_as_it_is():
    layer = HDetachLSTM(3, 4, p=0.5)
    for steps in (6, 9, 7):  # from the second on, Dynamo takes sizes for symbols
        x = torch.randn(steps, 2, 3)
        found = compiled_gradients(layer, x, fullgraph=False)
        assert_same(found, compiled_gradients(layer, x), 1e-6)


def test_autocast_gives_what_nn_lstm_gives_on_processors_that_can():
    layer = HDetachLSTM(3, 4, 2, p=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, (h_n, _) = layer(torch.randn(6, 2, 3))
        linear = nn.Linear(4, 2)(outputs)
    assert outputs.dtype == h_n.dtype == linear.dtype == torch.bfloat16
    linear.float().sum().backward()
    assert layer.weight_hh_l0.grad.dtype == torch.float32


def test_data_parallel_training_averages_the_gradients(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        layer = HDetachLSTM(3, 4, p=1.0)
        x = torch.randn(6, 2, 3)
        expected = weight_gradient(layer, x)
        layer.zero_grad()
        parallel = nn.parallel.DistributedDataParallel(layer)
        parallel(x)[0].square().sum().backward()
        assert torch.equal(layer.weight_hh_l0.grad, expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "call",
    [
        lambda lstm: lstm(torch.ones(5, 2, 4)),
        lambda lstm: lstm(torch.ones(5)),
        lambda lstm: lstm(torch.ones(5, 2, 3).double()),
        lambda lstm: lstm(torch.ones(0, 2, 3)),
        lambda lstm: lstm(torch.ones(5, 2, 3), (torch.ones(1, 2, 4), torch.ones(1, 3, 4))),
        lambda lstm: lstm(torch.ones(5, 2, 3), (torch.ones(2, 4), torch.ones(2, 4))),
        lambda lstm: lstm(torch.ones(5, 3), (torch.ones(1, 1, 4), torch.ones(1, 1, 4))),
    ],
)
def test_wrong_sizes_raise_what_nn_lstm_raises(call):
    found = []
    for lstm in (nn.LSTM(3, 4), HDetachLSTM(3, 4, p=0.5)):
        with pytest.raises((RuntimeError, ValueError)) as problem:
            call(lstm)
        found.append((problem.type, str(problem.value)))
    assert found[0] == found[1]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_layer_that_has_lost_its_recurrent_weight_says_so_as_nn_lstm_does(backend):
    for lstm in (nn.LSTM(3, 4), HDetachLSTM(3, 4, p=0.5, backend=backend)):
        lstm.weight_hh_l0 = None
        with pytest.raises(TypeError, match="None"):
            lstm(torch.ones(5, 2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, "p is 1.5; a probability lies between 0 and 1"),
        ({"cell_p": -1.0}, "cell_p is -1.0; a probability"),
        ({"layer_masks": "own"}, "layer_masks is 'own'; choose one of shared, independent"),
        ({"backend": "gpu"}, "backend is 'gpu'; choose one of auto, reference, torch"),
        ({"precision": "half"}, "precision is 'half'; choose one of full, bf16"),
    ],
)
def test_an_option_that_is_not_allowed_is_named(options, message):
    with pytest.raises(OptionError, match=message):
        HDetachLSTM(3, 4, **options)


def test_masks_that_do_not_fit_are_named():
    layer = HDetachLSTM(3, 4, 2)
    with pytest.raises(OptionError, match=r"keep holds 3 masks; give one tensor .* of the 2"):
        layer(torch.ones(5, 2, 3), keep=[torch.ones(5)] * 3)
    with pytest.raises(OptionError, match=r"keep has shape \[4\]"):
        layer(torch.ones(5, 2, 3), keep=torch.ones(4))


def test_what_a_layer_says_of_itself():
    assert repr(HDetachLSTM(3, 4, backend="torch")) == "HDetachLSTM(3, 4, backend=torch)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = HDetachLSTM(3, 4, 2, p=0.25, per_sample=True, layer_masks="independent")
    assert repr(layer) in (
        "HDetachLSTM(3, 4, num_layers=2, p=0.25, layer_masks=independent, per_sample=True, "
        f"backend=auto ({name}))"
        for name in ("cpu", "torch")
    )
