"""The h-detach LSTM as one operator: `hdetach_lstm`, known to autograd and to torch.compile.

The forward pass is that of `torch.nn.LSTM`, whatever the mask. In the backward pass the gradient
that leaves step t through h_{t-1} is multiplied by keep[t], and the one through c_{t-1} by
cell_keep[t] (h-detach: Kanuparthi, Arpit et al., ICLR 2019; c-detach is their ablation).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captioner.errors import OptionError
from captioner.lstm.backends import Backend, load, resolve
from captioner.lstm.operands import (
    GradResults,
    Masks,
    Needs,
    Operands,
    Saved,
    autocast_dtype,
    check_arguments,
    check_values,
    without_autocast,
)
from captioner.lstm.reference import differentiable_once, loop, refuse

PRECISIONS = ("full", "bf16")


def hdetach_lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    keep: Tensor | None,
    cell_keep: Tensor | None = None,
    backend: str = "auto",
    *,
    lengths: Tensor | None = None,
    precision: str = "full",
    w_hr: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden states of all steps, and hidden and cell state after the last one.

    A mask's values lie in [0, 1]: 0 detaches the state that enters a step, 1 keeps it, and
    what is between damps its gradient. None keeps all. No value depends on the masks, and no
    gradient reaches them.

    Half precision (bfloat16, float16) is computed in float32 and given back as it came; under
    autocast the results have autocast's dtype, as those of `nn.LSTM`. `precision="bf16"` rounds
    the operands of the large products only, with sums in float32.

    Shapes:
        x [T, B, I], h0 and c0 [B, H], w_ih [4H, I], w_hh [4H, H], b_ih and b_hh [4H] or None,
        keep and cell_keep [T] or [T, B] -> outputs [T, B, H], h_n [B, H], c_n [B, H]. The gates
        are in the order of nn.LSTM: input, forget, candidate, output. lengths [B], on the CPU and
        decreasing: row r ends after lengths[r] steps, and its outputs are zero from there on.
        With a projection w_hr [P, H], as nn.LSTM has it, h is of size P: h0 [B, P], w_hh [4H, P],
        outputs [T, B, P].
    Raises:
        OperandError: sizes, dtypes or devices do not fit, or a mask lies outside [0, 1]; it is an
            OptionError and a RuntimeError.
        OptionError: the backend cannot take these tensors.
        CaptionerError: a second derivative is asked for, in the second backward pass.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    operands = Operands(
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, bf16_products=precision == "bf16"
    )
    check_arguments(operands, Masks(keep, cell_keep))
    result_dtype = autocast_dtype(x) or x.dtype
    dtype = torch.promote_types(x.dtype, torch.float32)
    tensors = [None if one is None else one.to(dtype).contiguous() for one in operands.tensors]
    given = (None if one is None else one.detach().to(x.device, dtype) for one in (keep, cell_keep))
    masks = Masks(*(None if one is None else one.contiguous() for one in given))
    if backend == "reference":
        if not torch.compiler.is_compiling():
            check_values(len(x), masks, lengths)
        with without_autocast(x):
            *rest, w_hr = differentiable_once(*tensors)
            results = loop(*rest, *masks, lengths, w_hr)  # type: ignore[call-arg]
    else:
        if x.shape[1] == 0:
            backend = "torch"  # kernels divide the rows among threads
        save = torch.is_grad_enabled() and any(
            one is not None and one.requires_grad for one in tensors
        )
        run = torch.ops.captioner.hdetach_lstm if torch.compiler.is_compiling() else _Forward.apply
        results = run(*tensors, lengths, operands.bf16_products, *masks, backend, save)
    outputs, h_n, c_n = (one.to(result_dtype) for one in results[:3])
    return outputs, h_n, c_n


# What both operators take: the fields of `Operands` and of `Masks`, the backend's name.
_ARGUMENTS = (
    "Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? w_hr, Tensor? lengths, bool bf16_products, Tensor? keep, Tensor? cell_keep, "
    "str backend"
)
_MASKS = len(Operands._fields)


def _named(arguments: Sequence[Any]) -> tuple[Operands, Masks, str]:
    """Return the arguments that `_ARGUMENTS` declares."""
    operands, masks = arguments[:_MASKS], arguments[_MASKS : _MASKS + 2]
    return Operands(*operands), Masks(*masks), arguments[_MASKS + 2]


def _backend_for(name: str, operands: Operands) -> Backend:
    x = operands.x
    return load(resolve(name, x.device, x.dtype, has_projection=operands.w_hr is not None))


@torch.library.custom_op(
    "captioner::hdetach_lstm",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    operands, masks, backend = _named(arguments)
    check_values(len(operands.x), masks, operands.lengths)
    with without_autocast(operands.x):
        return _backend_for(backend, operands).forward(operands, save=arguments[-1])


@_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    operands, _, backend = _named(arguments)
    x, h0, c0, *_ = operands
    steps, batch_size, _ = x.shape
    gates: Sequence[int] = (0,)
    cells: Sequence[int] = (0,)
    if arguments[-1]:
        module = _backend_for(backend, operands)
        gates, cells = module.workspace_shapes(steps, batch_size, c0.shape[1])
    return (
        x.new_empty(steps, *h0.shape),
        torch.empty_like(h0),
        torch.empty_like(c0),
        x.new_empty(gates),
        x.new_empty(cells),
    )


@torch.library.custom_op(
    "captioner::hdetach_lstm_backward",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor? grad_outputs, Tensor? grad_h_n, Tensor? grad_c_n, "
    "Tensor outputs, Tensor gates, Tensor cells, bool[] needs) -> ("
    + ", ".join(["Tensor"] * len(Needs._fields))
    + ")",
)
def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    operands, masks, backend = _named(arguments)
    needs, saved = Needs(*arguments[-1]), Saved(*arguments[-4:-1])
    given = arguments[_MASKS + 3 : -4]
    grads = GradResults(*(None if one is None else one.contiguous() for one in given))
    with without_autocast(operands.x):
        module = _backend_for(backend, operands)
        found = module.backward(grads, operands, saved, masks, needs)._asdict()
    bias = found.pop("bias")
    if bias is not None:
        # A tensor for each bias: whoever scales one in place leaves the other alone.
        found.update(b_ih=bias, b_hh=bias.clone() if needs.b_ih else bias)
    # An operator returns tensors only: an empty one stands for a gradient that nobody needs.
    return tuple(
        found[name] if needed else operands.x.new_empty(0)
        for name, needed in needs._asdict().items()
    )


@_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    tensors, needs = _named(arguments)[0].tensors, arguments[-1]
    return tuple(
        torch.empty_like(one) if needed and one is not None else arguments[0].new_empty(0)
        for one, needed in zip(tensors, needs, strict=True)
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    outputs, _, _, gates, cells = output
    (*tensors, lengths, ctx.bf16_products), masks, ctx.backend = _named(inputs)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gates, cells)
    ctx.save_for_backward(*tensors, lengths, *masks, outputs, gates, cells)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * len(ctx.needs_input_grad)
    if all(grad is None for grad in grads[:3]):
        return nothing
    saved, needs = ctx.saved_tensors, list(ctx.needs_input_grad[: len(Needs._fields)])
    operands, masks, results = saved[: _MASKS - 1], saved[_MASKS - 1 : -3], saved[-3:]
    compiling = torch.compiler.is_compiling()
    run = torch.ops.captioner.hdetach_lstm_backward if compiling else _Backward.apply
    found = run(*operands, ctx.bf16_products, *masks, ctx.backend, *grads[:3], *results, needs)
    wanted = (grad if needed else None for grad, needed in zip(found, needs, strict=True))
    return (*wanted, *nothing[len(needs) :])


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)
_backward.register_autograd(refuse)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Stand where torch.func asks for it; the backward pass of a backward pass needs nothing."""


class _Forward(torch.autograd.Function):
    """The operator as torch.func wants it; what the operator itself registers, it refuses."""

    forward = staticmethod(torch.ops.captioner.hdetach_lstm)
    setup_context = staticmethod(_save_for_backward)
    backward = staticmethod(_differentiate)


class _Backward(torch.autograd.Function):
    forward = staticmethod(torch.ops.captioner.hdetach_lstm_backward)
    setup_context = staticmethod(_save_nothing)
    backward = staticmethod(refuse)
