"""Gradients that follow from those of the gates, each as one product over all steps."""

import torch
from torch import Tensor

from captioner.hdetach.products import linear, weight_gradient
from captioner.lstm.operands import Gradients, Needs, Operands


def follow_gate_gradients(
    grad_gates: Tensor,
    operands: Operands,
    outputs: Tensor,
    needs: Needs,
    grad_x: Tensor | None = None,
) -> Gradients:
    """Return the gradients of x, both weights and the bias.

    `grad_x` is room for that of x, which large products in float32 are written to.

    Shapes:
        grad_gates [T, B, G], w_ih of the operands [G, I] -> x [T, B, I], w_ih [G, I], w_hh [G, H],
        bias [G].
    """
    x, dtype, flat = operands.x, operands.product_dtype, grad_gates.flatten(0, 1)
    grads = Gradients()
    if needs.x and dtype is None and grad_x is not None:
        torch.mm(flat, operands.w_ih, out=grad_x.view(-1, x.shape[2]))
        grads = grads._replace(x=grad_x)
    elif needs.x:
        grads = grads._replace(x=linear(grad_gates, operands.w_ih.t(), None, dtype))
    if needs.w_ih:
        grads = grads._replace(w_ih=weight_gradient(flat, x.flatten(0, 1), dtype))
    if needs.w_hh:
        grad = weight_gradient(grad_gates[0], operands.h0, dtype)
        grad += weight_gradient(grad_gates[1:].flatten(0, 1), outputs[:-1].flatten(0, 1), dtype)
        grads = grads._replace(w_hh=grad)
    if needs.bias:
        grads = grads._replace(bias=flat.sum(0))
    return grads
