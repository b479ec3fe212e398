"""The split of the gradient against autograd, against brute force, and against the paper."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import captioner.lstm.path_gradients
from captioner.errors import OptionError
from captioner.hdetach.masks import sample_keep
from captioner.lstm.path_gradients import gradient_paths

DOUBLE = torch.float64


def make_lstm(inputs: int, hidden: int, *, scale: float = 1.0, bias: bool = True) -> nn.LSTM:
    torch.manual_seed(hidden + 100 * inputs)
    lstm = nn.LSTM(inputs, hidden, bias=bias).to(DOUBLE)
    with torch.no_grad():
        lstm.weight_hh_l0 *= scale
    return lstm


def step(x: Tensor, hidden: Tensor, cell: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One step of an LSTM as in the textbook: the new hidden state and the new cell state."""
    w_ih, w_hh, b_ih, b_hh = weights
    into, forget, candidate, out = (x @ w_ih.T + b_ih + hidden @ w_hh.T + b_hh).chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def unroll(x: Tensor, weights: list[Tensor], copies: list[Tensor], keep: Tensor) -> list[Tensor]:
    """All hidden states; step t uses copies[t] as recurrent weights, keep[t] = 0 detaches."""
    hidden = cell = torch.zeros(x.shape[1], weights[1].shape[1], dtype=DOUBLE)
    outputs = []
    for t in range(len(x)):
        k = keep[t] if keep.ndim == 1 else keep[t, :, None]
        hidden = k * hidden + (1 - k) * hidden.detach()
        hidden, cell = step(x[t], hidden, cell, [weights[0], copies[t], *weights[2:]])
        outputs.append(hidden)
    return outputs


def autograd_by_lag(x: Tensor, weights: list[Tensor], grads: Tensor, keep: Tensor) -> Tensor:
    """Brute force: its own copy of the weights for each step, its own backward for each loss."""
    copies = [weights[1].detach().clone().requires_grad_() for _ in x]
    by_lag = torch.zeros(len(x), *weights[1].shape, dtype=DOUBLE)
    for t, hidden in enumerate(unroll(x, weights, copies, keep)):
        loss = (hidden * grads[t]).sum()
        shares = torch.autograd.grad(loss, copies[: t + 1], retain_graph=True)
        for s, share in enumerate(shares):
            by_lag[t - s] += share
    return by_lag


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden", "bias"),
    [(1, 1, 1, 1, True), (9, 3, 2, 7, True), (40, 5, 1, 16, False), (12, 1, 4, 33, True)],
)
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_the_two_parts_add_up_to_the_gradient_of_nn_lstm(steps, batch, inputs, hidden, bias, scale):
    lstm = make_lstm(inputs, hidden, scale=scale, bias=bias)
    x, h0, c0 = (
        torch.randn(*size, dtype=DOUBLE)
        for size in ((steps, batch, inputs), (batch, hidden), (batch, hidden))
    )
    outputs, _ = lstm(x, (h0[None], c0[None]))
    grads = torch.randn_like(outputs)
    outputs.backward(grads)
    parameters = [*lstm.parameters(), *([] if bias else [None, None])]
    paths = gradient_paths(x, h0, c0, *parameters, grads)
    assert paths.cell.shape == paths.rest.shape == (steps, 4 * hidden, hidden)
    assert relative(paths.total(), lstm.weight_hh_l0.grad) < 1e-12
    cell_norms, rest_norms = paths.norms()
    assert torch.allclose(cell_norms[-1], paths.cell[-1].square().sum().sqrt())
    assert rest_norms.shape == (steps,)


def test_a_cell_driven_by_hand_and_a_gradient_from_its_loss():
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 8).to(DOUBLE)
    x, target = torch.randn(11, 2, 3, dtype=DOUBLE), torch.randn(11, 2, 8, dtype=DOUBLE)
    state, outputs = None, []
    for row in x:
        state = cell(row, state)
        outputs.append(state[0])
    read = torch.stack(outputs)
    loss = (read - target).square().mean()
    loss.backward(retain_graph=True)
    (grads,) = torch.autograd.grad(loss, read)
    paths = gradient_paths(x, None, None, *cell.parameters(), grads)
    assert relative(paths.total(), cell.weight_hh.grad) < 1e-12


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("rows", [1, 4096])
def test_every_lag_equals_brute_force(p, rows, monkeypatch):
    monkeypatch.setattr(captioner.lstm.path_gradients, "_ROWS_AT_ONCE", rows)
    lstm = make_lstm(2, 5, scale=3.0)
    weights = list(lstm.parameters())
    x, grads = torch.randn(10, 3, 2, dtype=DOUBLE), torch.randn(10, 3, 5, dtype=DOUBLE)
    grads[4:6] = 0  # no loss there
    keep = sample_keep(10, p, generator=torch.Generator().manual_seed(4)).to(DOUBLE)
    paths = gradient_paths(x, None, None, *weights, grads, keep=keep)
    whole = autograd_by_lag(x, weights, grads, keep)
    along_cell = autograd_by_lag(x, weights, grads, torch.zeros(10, dtype=DOUBLE))
    assert (paths.cell - along_cell).abs().max() < 1e-13
    assert (paths.rest - (whole - along_cell)).abs().max() < 1e-13
    assert not paths.rest[0].any()


def test_detaching_every_step_leaves_exactly_the_cell_part():
    lstm = make_lstm(2, 6, scale=4.0)
    weights = list(lstm.parameters())
    x, grads = torch.randn(15, 2, 2, dtype=DOUBLE), torch.randn(15, 2, 6, dtype=DOUBLE)
    always = sample_keep(15, 1.0, generator=torch.Generator()).to(DOUBLE)
    detached = gradient_paths(x, None, None, *weights, grads, keep=always)
    assert not detached.rest.any()
    assert torch.equal(detached.cell, gradient_paths(x, None, None, *weights, grads).cell)
    outputs = unroll(x, weights, [weights[1]] * 15, always)
    (torch.stack(outputs) * grads).sum().backward()
    assert relative(detached.cell.sum(dim=0), lstm.weight_hh_l0.grad) < 1e-12


def test_masks_may_be_fractional_and_differ_between_samples():
    lstm = make_lstm(3, 4, scale=2.0)
    weights = list(lstm.parameters())
    x, grads = torch.randn(8, 5, 3, dtype=DOUBLE), torch.randn(8, 5, 4, dtype=DOUBLE)
    keep = torch.rand(8, 5, dtype=DOUBLE)
    (torch.stack(unroll(x, weights, [weights[1]] * 8, keep)) * grads).sum().backward()
    paths = gradient_paths(x, None, None, *weights, grads, keep=keep)
    assert relative(paths.total(), lstm.weight_hh_l0.grad) < 1e-12


# Theorem 1 and Corollary 1, literally: z_t holds dc_t/dw, dh_t/dw and a 1, for each weight w.


def theorem_matrices(x: Tensor, weights: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """A_t and B_t of every step t for one sample: [2 * hidden + P, 2 * hidden + P], P weights."""
    hidden = cell = torch.zeros(weights[1].shape[1], dtype=DOUBLE)
    size, count = hidden.numel(), weights[1].numel()
    matrices = []
    for row in x:

        def both(c: Tensor, h: Tensor, w: Tensor, row: Tensor = row) -> Tensor:
            new_hidden, new_cell = step(row, h, c, [weights[0], w, *weights[2:]])
            return torch.cat([new_cell, new_hidden])

        of_cell, of_hidden, direct = torch.autograd.functional.jacobian(
            both, (cell, hidden, weights[1])
        )
        along, through = (torch.zeros(2 * size + count, 2 * size + count) for _ in range(2))
        along, through = along.to(DOUBLE), through.to(DOUBLE)
        along[: 2 * size, :size] = of_cell
        along[: 2 * size, 2 * size :] = direct.reshape(2 * size, count)
        along[2 * size :, 2 * size :] = torch.eye(count)
        through[: 2 * size, size : 2 * size] = of_hidden
        matrices.append((along, through))
        hidden, cell = step(row, hidden, cell, weights)
    return matrices


def theorem_gradient(matrices: list[tuple[Tensor, Tensor]], keep: list[float]) -> Tensor:
    """dh_T/dw for every weight: the product of A_t + keep[t] * B_t, applied to z_0 = (0, 0, 1)."""
    total = matrices[0][0].shape[0]
    size = next(n for n in range(1, total) if 2 * n + 4 * n * n == total)
    z = torch.zeros(total, total - 2 * size, dtype=DOUBLE)
    z[2 * size :] = torch.eye(total - 2 * size)
    for (along, through), k in zip(matrices, keep, strict=True):
        z = (along + k * through) @ z
    return z[size : 2 * size]


@pytest.fixture(scope="module")
def small_case():
    lstm = make_lstm(2, 3, scale=5.0)
    x = torch.randn(6, 1, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    weights = [weight.detach() for weight in lstm.parameters()]
    grads = torch.zeros(6, 1, 3, dtype=DOUBLE)
    grads[-1, 0] = torch.tensor([0.3, -1.0, 0.7])  # a loss at the end alone: L = grads . h_T
    return x, weights, grads, theorem_matrices(x[:, 0], weights)


def gradient_under(case, keep) -> Tensor:
    x, weights, grads, _ = case
    recurrent = weights[1].clone().requires_grad_()
    outputs = unroll(x, weights, [recurrent] * len(x), torch.as_tensor(keep, dtype=DOUBLE))
    return torch.autograd.grad((outputs[-1] * grads[-1]).sum(), recurrent)[0]


@pytest.mark.parametrize("damped", [1.0, 0.75, 0.3, 0.0])
def test_the_parts_are_those_of_theorem_1(small_case, damped):
    x, weights, grads, matrices = small_case
    paths = gradient_paths(x, None, None, *weights, grads, keep=torch.full((6,), damped))
    expected = (grads[-1, 0] @ theorem_gradient(matrices, [damped] * 6)).view_as(weights[1])
    assert relative(paths.total(), expected) < 1e-7  # keep is float32
    cell_only = (grads[-1, 0] @ theorem_gradient(matrices, [0.0] * 6)).view_as(weights[1])
    assert relative(paths.cell.sum(dim=0), cell_only) < 1e-12


@pytest.mark.parametrize("p", [0.25, 0.6])
def test_all_masks_weighted_by_their_probability_give_corollary_1(small_case, p):
    x, weights, grads, matrices = small_case
    mean = torch.zeros_like(weights[1])
    for keep in itertools.product((0.0, 1.0), repeat=6):
        probability = (1 - p) ** sum(keep) * p ** (6 - sum(keep))
        mean += probability * gradient_under(small_case, keep)
    expected = (grads[-1, 0] @ theorem_gradient(matrices, [1 - p] * 6)).view_as(mean)
    assert relative(mean, expected) < 1e-12
    damping = torch.full((6,), 1 - p, dtype=DOUBLE)
    paths = gradient_paths(x, None, None, *weights, grads, keep=damping)
    assert relative(paths.total(), expected) < 1e-12


def test_the_mean_over_drawn_masks_approaches_corollary_1(small_case):
    x, weights, grads, matrices = small_case
    generator = torch.Generator().manual_seed(11)
    expected = (grads[-1, 0] @ theorem_gradient(matrices, [0.6] * 6)).view_as(weights[1])
    drawn = torch.stack(
        [
            gradient_paths(
                x, None, None, *weights, grads, keep=sample_keep(6, 0.4, generator=generator)
            ).total()
            for _ in range(600)
        ]
    )
    plain = gradient_under(small_case, [1.0] * 6)
    for count in (60, 600):
        mean = drawn[:count].mean(dim=0)
        sampling_error = drawn.var(dim=0).sum().sqrt() / count**0.5
        assert (mean - expected).norm() < 2.5 * sampling_error
    # and the test can tell Corollary 1 from the plain gradient, and p from 1 - p
    assert (mean - plain).norm() > 10 * sampling_error
    wrong = (grads[-1, 0] @ theorem_gradient(matrices, [0.4] * 6)).view_as(weights[1])
    assert (mean - wrong).norm() > 10 * sampling_error


def test_a_long_way_back_ends_in_zeros_and_not_in_denormals():
    lstm = make_lstm(1, 8)
    x, grads = torch.randn(400, 1, 1, dtype=DOUBLE), torch.zeros(400, 1, 8, dtype=DOUBLE)
    grads[-1] = 1.0
    exact = gradient_paths(x, None, None, *lstm.parameters(), grads)
    lstm.float()
    paths = gradient_paths(x.float(), None, None, *lstm.parameters(), grads.float())
    assert relative(paths.total().double(), exact.total()) < 1e-5
    assert exact.cell[300].any()
    assert not paths.cell[300].any()


def test_shapes_that_do_not_belong_together_are_named():
    weights = [weight.detach() for weight in make_lstm(2, 3).parameters()]
    x, grads = torch.zeros(5, 1, 2, dtype=DOUBLE), torch.zeros(5, 1, 3, dtype=DOUBLE)
    projected = [weights[0], torch.zeros(12, 2, dtype=DOUBLE), *weights[2:]]
    with pytest.raises(OptionError, match=r"w_ih has shape \[12, 2\]; .* must be \[8, 2\]"):
        gradient_paths(x, None, None, *projected, grads)
    with pytest.raises(OptionError, match=r"x has shape \[5, 2\]; it must be"):
        gradient_paths(x[:, 0], None, None, *weights, grads)
    with pytest.raises(
        OptionError, match=r"grad_outputs has shape \[4, 1, 3\]; .* need \[5, 1, 3\]"
    ):
        gradient_paths(x, None, None, *weights, grads[1:])
    with pytest.raises(OptionError, match=r"keep has shape \[6\]; it must be \[T\] = \[5\]"):
        gradient_paths(x, None, None, *weights, grads, keep=torch.ones(6))


def test_the_package_offers_the_function():
    import captioner.lstm

    assert captioner.lstm.gradient_paths is gradient_paths
