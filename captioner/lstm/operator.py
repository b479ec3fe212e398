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
from captioner.lstm.arguments import (
    autocast_dtype,
    check_arguments,
    check_values,
    without_autocast,
)
from captioner.lstm.backends import load, resolve
from captioner.lstm.double_backward import differentiable_once, refuse
from captioner.lstm.operands import Incoming, Masks, Needs, Operands, Saved
from captioner.lstm.reference import loop

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
    Raises:
        OptionError: sizes, dtypes or devices do not fit, a mask lies outside [0, 1], or the
            backend cannot take these tensors.
        CaptionerError: a second derivative is asked for, in the second backward pass.
    """
    check_arguments(x, h0, c0, w_ih, w_hh, b_ih, b_hh, keep, cell_keep, lengths)
    if precision not in PRECISIONS:
        raise OptionError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    result_dtype = autocast_dtype(x) or x.dtype
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, h0, c0, w_ih, w_hh = (one.to(dtype).contiguous() for one in (x, h0, c0, w_ih, w_hh))
    b_ih, b_hh = (None if one is None else one.to(dtype).contiguous() for one in (b_ih, b_hh))
    keep, cell_keep = (
        None if one is None else one.detach().to(x.device, dtype).contiguous()
        for one in (keep, cell_keep)
    )
    if x.shape[1] == 0 and backend != "reference":
        backend = "torch"  # kernels divide the rows among threads
    if backend == "reference":
        if not torch.compiler.is_compiling():
            check_values(x.shape[0], keep, cell_keep, lengths)
        x, h0, c0, w_ih, w_hh, b_ih, b_hh = differentiable_once(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
        with without_autocast(x):
            outputs, h_n, c_n = loop(x, h0, c0, w_ih, w_hh, b_ih, b_hh, keep, cell_keep, lengths)
    else:
        save = torch.is_grad_enabled() and any(
            one is not None and one.requires_grad for one in (x, h0, c0, w_ih, w_hh, b_ih, b_hh)
        )
        run = torch.ops.captioner.hdetach_lstm if torch.compiler.is_compiling() else _Forward.apply
        outputs, h_n, c_n, _, _ = run(
            x,
            h0,
            c0,
            w_ih,
            w_hh,
            b_ih,
            b_hh,
            keep,
            cell_keep,
            lengths,
            backend,
            precision == "bf16",
            save,
        )
    return outputs.to(result_dtype), h_n.to(result_dtype), c_n.to(result_dtype)


@torch.library.custom_op("captioner::hdetach_lstm", mutates_args=())
def _forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    keep: Tensor | None,
    cell_keep: Tensor | None,
    lengths: Tensor | None,
    backend: str,
    bf16_products: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_values(x.shape[0], keep, cell_keep, lengths)
    module = load(resolve(backend, x.device, x.dtype, h0.shape[1]))
    operands = Operands(x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, bf16_products)
    with without_autocast(x):
        return module.forward(operands, save=save)


@_forward.register_fake
def _(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,  # noqa: ARG001
    w_hh: Tensor,  # noqa: ARG001
    b_ih: Tensor | None,  # noqa: ARG001
    b_hh: Tensor | None,  # noqa: ARG001
    keep: Tensor | None,  # noqa: ARG001
    cell_keep: Tensor | None,  # noqa: ARG001
    lengths: Tensor | None,  # noqa: ARG001
    backend: str,
    bf16_products: bool,  # noqa: ARG001
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch_size, inputs = x.shape
    size = h0.shape[1]
    gates, cells = (0,), (0,)
    if save:
        module = load(resolve(backend, x.device, x.dtype, size))
        gates, cells = module.workspace_shapes(steps, batch_size, inputs, size)  # type: ignore[assignment]
    return (
        x.new_empty(steps, batch_size, size),
        torch.empty_like(h0),
        torch.empty_like(c0),
        x.new_empty(gates),
        x.new_empty(cells),
    )


@torch.library.custom_op("captioner::hdetach_lstm_backward", mutates_args=())
def _backward(
    grad_outputs: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    outputs: Tensor,
    gates: Tensor,
    cells: Tensor,
    keep: Tensor | None,
    cell_keep: Tensor | None,
    lengths: Tensor | None,
    backend: str,
    bf16_products: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = load(resolve(backend, x.device, x.dtype, h0.shape[1]))
    incoming = (grad_outputs, grad_h_n, grad_c_n)
    with without_autocast(x):
        grads = module.backward(
            Incoming(*(None if one is None else one.contiguous() for one in incoming)),
            Operands(x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, bf16_products),
            Saved(outputs, gates, cells),
            Masks(keep, cell_keep),
            Needs(*needs),
        )
    # An operator returns tensors only: an empty one stands for a gradient that nobody needs.
    return tuple(  # type: ignore[return-value]
        grad if needed and grad is not None else x.new_empty(0)
        for grad, needed in zip(grads, needs, strict=True)
    )


@_backward.register_fake
def _(
    grad_outputs: Tensor | None,  # noqa: ARG001
    grad_h_n: Tensor | None,  # noqa: ARG001
    grad_c_n: Tensor | None,  # noqa: ARG001
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,  # noqa: ARG001
    b_hh: Tensor | None,  # noqa: ARG001
    outputs: Tensor,  # noqa: ARG001
    gates: Tensor,  # noqa: ARG001
    cells: Tensor,  # noqa: ARG001
    keep: Tensor | None,  # noqa: ARG001
    cell_keep: Tensor | None,  # noqa: ARG001
    lengths: Tensor | None,  # noqa: ARG001
    backend: str,  # noqa: ARG001
    bf16_products: bool,  # noqa: ARG001
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = (x.shape, h0.shape, c0.shape, w_ih.shape, w_hh.shape, w_hh.shape[:1])
    return tuple(  # type: ignore[return-value]
        x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, needs, strict=True)
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, keep, cell_keep, lengths, ctx.backend, ctx.bf16_products, _ = inputs
    outputs, _, _, gates, cells = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gates, cells)
    ctx.save_for_backward(*tensors, outputs, gates, cells, keep, cell_keep, lengths)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 13
    if all(grad is None for grad in grads[:3]):
        return nothing
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = ctx.needs_input_grad[:7]
    needs = [x, h0, c0, w_ih, w_hh, b_ih or b_hh]
    compiling = torch.compiler.is_compiling()
    run = torch.ops.captioner.hdetach_lstm_backward if compiling else _Backward.apply
    results = run(*grads[:3], *ctx.saved_tensors, ctx.backend, ctx.bf16_products, needs)
    found = [grad if needed else None for grad, needed in zip(results, needs, strict=True)]
    return (*found, found[5] if b_hh else None, *nothing[7:])


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
