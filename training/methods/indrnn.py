"""IndRNN: each unit is connected to its own past only; stacked layers mix the units.

Source: Li, Li, Cook, Zhu, Gao, *Independently Recurrent Neural Network (IndRNN): Building A Longer
and Deeper RNN*, CVPR 2018 (arXiv 1803.04831), equations 4 to 7.

    h_t = relu(W x_t + u * h_{t-1} + b),    h_0 = 0,    |u_n| <= --recurrent-bound

(* is the product of elements.) The Jacobian of a step is diagonal, and over T steps a unit's
gradient is at most u_n^T: the bound keeps it from exploding. The paper bounds |u| by gamma^(1/T),
for example 2^(1/784) = 1.0009; here the default bound is 1. Our choices: W is He's (normal,
variance 2 / fan-in), b = 0, u is uniform between 0 and the bound, which gives the units all ranges
of memory. For pixel MNIST the paper stacks 6 layers with batch normalisation between them and
trains at 2e-4; here --layers sets their number, and there is no normalisation, so do not expect its
99 %.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.options import AT_LEAST_ONE, Range, option
from training.methods import MethodOptions, RecurrentMethod


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    layers: int = option(2, "layers, each reading the one before", within=AT_LEAST_ONE)
    recurrent_bound: float = option(
        1.0,
        "largest absolute value of a recurrent weight; above 1 a state can grow without limit",
        within=Range("it must be above 0 and at most 2", lambda value: 0 < value <= 2),
    )


class Method(RecurrentMethod):
    """The network of the module's docstring; its output is h_t of the last layer."""

    def __init__(
        self, input_size: int, hidden_size: int, options: Options, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden_size = self.output_size = hidden_size
        self.bound = options.recurrent_bound
        self.weights, self.recurrents, self.biases = (nn.ParameterList() for _ in range(3))
        for layer in range(options.layers):
            fan_in = input_size if layer == 0 else hidden_size
            drawn = torch.randn(hidden_size, fan_in, generator=generator)
            self.weights.append(nn.Parameter(drawn * (2.0 / fan_in) ** 0.5))
            between = torch.rand(hidden_size, generator=generator)
            self.recurrents.append(nn.Parameter(self.bound * between))
            self.biases.append(nn.Parameter(torch.zeros(hidden_size)))

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor, ...] | None = None,
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002 - nothing is drawn
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run all layers, each over all steps; `state` holds one [B, H] for each layer."""
        last = []
        parts = zip(self.weights, self.recurrents, self.biases, strict=True)
        for layer, (weight, recurrent, bias) in enumerate(parts):
            projected = nn.functional.linear(x, weight, bias)
            # Clamped where it is used: beyond the bound a weight gets no gradient, as in the
            # authors' code.
            own = recurrent.clamp(-self.bound, self.bound)
            h = state[layer] if state else x.new_zeros(x.shape[1], self.hidden_size)
            outputs = []
            for now in projected.unbind():
                h = torch.addcmul(now, own, h).relu()
                outputs.append(h)
            x = torch.stack(outputs)
            last.append(h)
        return x, tuple(last)
