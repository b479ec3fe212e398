"""Matrix products at a chosen precision, with the result always in the precision of the model.

Under bfloat16 the operands of the large products are rounded, the sums and everything
elementwise stay in float32. Weights are rounded once per batch, never once per step: casting at
every step is what makes plain autocast ten times slower than float32 in a recurrence.
"""

import torch
from torch import Tensor


def linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None
) -> Tensor:
    """Return `inputs @ weight.T + bias`, the product taken in `dtype` (None: as the inputs are).

    Shapes:
        inputs [..., in], weight [out, in], bias [out] -> [..., out] of the inputs' dtype.
    """
    if dtype is None:
        return torch.nn.functional.linear(inputs, weight, bias)
    product = torch.nn.functional.linear(inputs.to(dtype), weight.to(dtype)).to(inputs.dtype)
    return product if bias is None else product + bias


class Multiplier:
    """A weight rounded once, to be multiplied with many small matrices."""

    def __init__(self, weight: Tensor, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.weight = weight if dtype is None else weight.to(dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """Return `rows @ weight.T`: [rows, in] -> [rows, out]."""
        return self._multiply(rows, self.weight.t())

    def backward(self, grad: Tensor) -> Tensor:
        """Return `grad @ weight`: [rows, out] -> [rows, in]."""
        return self._multiply(grad, self.weight)

    def _multiply(self, left: Tensor, right: Tensor) -> Tensor:
        if self.dtype is None:
            return left @ right
        return (left.to(self.dtype) @ right).to(left.dtype)


def weight_gradient(grad: Tensor, inputs: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return `grad.T @ inputs`, summed over the rows of all steps in one product.

    Shapes:
        grad [tokens, out], inputs [tokens, in] -> [out, in].
    """
    if dtype is None:
        return grad.t() @ inputs
    return (grad.to(dtype).t() @ inputs.to(dtype)).to(grad.dtype)
