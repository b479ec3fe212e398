"""Error for second derivatives, which h-detach does not have.

The gradient of h-detach is not the gradient of any function, so its derivative has no meaning.
Autograd would return one, because it treats what is detached as a constant. Here it raises.
"""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from captioner.errors import CaptionerError


def refuse(ctx: Any, *grads: Tensor | None) -> None:  # noqa: ARG001
    """Stand in for the derivative of a backward pass, and raise."""
    raise CaptionerError(
        "the h-detach LSTM has no second derivative: what is detached would be missing from it; "
        "differentiate once (create_graph=True is of no use here)"
    )


class _Gradients(Function):
    @staticmethod
    def forward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return tuple(None if grad is None else grad.view_as(grad) for grad in grads)

    backward = staticmethod(refuse)


class _Once(Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        return tuple(None if one is None else one.view_as(one) for one in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # noqa: ARG004
        return _Gradients.apply(*grads)


def differentiable_once(*tensors: Tensor | None) -> Any:
    """Return the same tensors; whatever is computed from them can be differentiated once."""
    return _Once.apply(*tensors)
