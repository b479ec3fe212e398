"""IRNN: a plain network of ReLUs whose recurrent weights begin as the identity.

Source: Le, Jaitly, Hinton, *A Simple Way to Initialize Recurrent Networks of Rectified Linear
Units*, 2015 (arXiv 1504.00941), section 3.

    h_t = relu(W h_{t-1} + V x_t + b),    h_0 = 0
    at first W = I (or --recurrent-scale times it), b = 0, V ~ N(0, 0.001^2)

So at first a state without input stays as it is, however long, and its gradient does too; nothing
keeps W there afterwards. Le et al. train with plain gradient descent and search learning rate and
clipping per task; here the optimiser is the task's, as it is for every method.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.options import Range, option
from training.methods import MethodOptions, RecurrentMethod

_INPUT_DEVIATION = 0.001


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    recurrent_scale: float = option(
        1.0,
        "what the identity is multiplied by at first",
        within=Range("it must be above 0 and at most 2", lambda value: 0 < value <= 2),
    )


class Method(RecurrentMethod):
    """The network of the module's docstring; its output is h_t."""

    def __init__(
        self, input_size: int, hidden_size: int, options: Options, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden_size = self.output_size = hidden_size
        drawn = torch.randn(hidden_size, input_size, generator=generator)
        self.weight_ih = nn.Parameter(_INPUT_DEVIATION * drawn)
        self.weight_hh = nn.Parameter(options.recurrent_scale * torch.eye(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002 - nothing is drawn
    ) -> tuple[Tensor, tuple[Tensor]]:
        projected = nn.functional.linear(x, self.weight_ih, self.bias)
        recurrent = self.weight_hh.t()
        h = state[0] if state else x.new_zeros(x.shape[1], self.hidden_size)
        outputs = []
        for now in projected.unbind():
            h = torch.addmm(now, h, recurrent).relu()
            outputs.append(h)
        return torch.stack(outputs), (h,)
