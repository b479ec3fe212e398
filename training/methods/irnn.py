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

from captioner.errors import OptionError
from training.methods import MethodOptions, RecurrentMethod
from training.options import option

_INPUT_DEVIATION = 0.001


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    recurrent_scale: float = option(1.0, "what the identity is multiplied by at first")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.recurrent_scale <= 2:
            raise OptionError(
                f"--recurrent-scale is {self.recurrent_scale:g}; it must be above 0 and at most 2, "
                "and 1 keeps a state as it is"
            )


class Method(RecurrentMethod):
    """The network of the module's docstring; its output is h_t."""

    def __init__(
        self, input_size: int, hidden_size: int, options: Options, *, generator: torch.Generator
    ) -> None:
        super().__init__(input_size, hidden_size, options, generator=generator)
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
