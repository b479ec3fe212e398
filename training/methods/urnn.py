"""uRNN: a complex state that is turned by a unitary matrix, so that it cannot fade or explode.

Source: Arjovsky, Shah, Bengio, *Unitary Evolution Recurrent Neural Networks*, ICML 2016
(arXiv 1511.06464), sections 4.1 to 4.4.

    z_t = modReLU(W z_{t-1} + V x_t)
    W = D3 R2 F^-1 D2 Pi R1 F D1
    modReLU(z) = (|z| + b) z / |z| where |z| + b >= 0, else 0

D are diagonal with entries exp(i w), R = I - 2 v v* / |v|^2 reflections, F is the unitary Fourier
transform and Pi a fixed permutation. Every factor is unitary whatever its parameters are, so W
stays so while it learns. The output is the real and the imaginary part of z_t, 2 H numbers.

At first, as in the paper: w ~ U(-pi, pi), v ~ U(-1, 1), V by Glorot, b = 0, and the learned z_0
uniform within sqrt(3 / 2H), of mean squared norm 1. Left to choice: the real and imaginary parts of
V are each Glorot's. The paper trains with RMSProp at 1e-3; here the optimiser is the task's.

W is multiplied out once for each pass, from the columns of the identity, and a step is then one
matrix product: at some hundred units that is quicker than eight operations on every step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.methods import MethodOptions, RecurrentMethod

_SMALLEST = 1e-12  # squared modulus that modReLU divides by


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    """Nothing to choose."""


class Method(RecurrentMethod):
    """The network of the module's docstring. Complex parameters are kept as pairs of reals."""

    permutation: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        options: Options,  # noqa: ARG002 - there are none
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.hidden_size, self.output_size = hidden_size, 2 * hidden_size

        def uniform(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(*shape, generator=generator) - 1) * bound)

        self.angles = uniform(math.pi, 3, hidden_size)
        self.reflections = uniform(1.0, 2, 2, hidden_size)  # which, real or imaginary
        glorot = math.sqrt(6 / (input_size + hidden_size))
        self.weight_ih = uniform(glorot, 2 * hidden_size, input_size)
        self.first_state = uniform(math.sqrt(3 / (2 * hidden_size)), 2, hidden_size)
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        order = torch.randperm(hidden_size, generator=generator)
        self.register_buffer("permutation", order)

    def turn(self, z: Tensor) -> Tensor:
        """Return W z for every row, factor by factor.

        Shapes:
            z [..., H] complex -> the same.
        """
        first, second, third = torch.polar(torch.ones_like(self.angles), self.angles)
        z = torch.fft.fft(first * z, norm="ortho")
        z = self._reflect(z, 0)[..., self.permutation]
        z = torch.fft.ifft(second * z, norm="ortho")
        return third * self._reflect(z, 1)

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor] | None = None,
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002 - nothing is drawn
    ) -> tuple[Tensor, tuple[Tensor]]:
        """Run all steps; `state` is the real and the imaginary part of z [B, 2 H]."""
        projected = nn.functional.linear(x, self.weight_ih)
        # Row n is W applied to unit vector n, so a row vector times this is its turn.
        unit = torch.eye(self.hidden_size, dtype=self.angles.dtype, device=x.device)
        turned = self.turn(torch.complex(unit, torch.zeros_like(unit)))
        upper = torch.cat([turned.real, turned.imag], dim=1)
        turned = torch.cat([upper, torch.cat([-turned.imag, turned.real], dim=1)])
        z = state[0] if state else self.first_state.flatten().expand(x.shape[1], -1)
        outputs = []
        for now in projected.unbind():
            z = self._mod_relu(torch.addmm(now, z, turned))
            outputs.append(z)
        return torch.stack(outputs), (z,)

    def _reflect(self, z: Tensor, which: int) -> Tensor:
        v = torch.complex(*self.reflections[which])
        along = (z @ v.conj()).unsqueeze(-1) / v.abs().square().sum()
        return z - 2 * along * v

    def _mod_relu(self, z: Tensor) -> Tensor:
        parts = z.unflatten(1, (2, -1))
        inverse = parts.square().sum(dim=1).clamp_min(_SMALLEST).rsqrt()
        # The factor 1 + b / |z| is exactly 1 where b = 0, so that nothing is lost over many steps.
        factor = torch.addcmul(torch.ones_like(inverse), inverse, self.bias).relu()
        return (parts * factor.unsqueeze(1)).flatten(1)
