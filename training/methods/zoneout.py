"""Zoneout: an LSTM in which units, drawn anew at every step, keep the value they had.

Source: Krueger et al., *Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations*,
ICLR 2017 (arXiv 1606.01305, 2016), section 3.2.

    i, f, g, o  =  gates of an LSTM from x_t and h_{t-1}
    c' = f * c_{t-1} + i * g,    h' = o * tanh(c')
    c_t = d_c * c_{t-1} + (1 - d_c) * c',    h_t = d_h * h_{t-1} + (1 - d_h) * h'

d_c and d_h are 1 with the probabilities --zoneout-c and --zoneout-h, for each unit of each row at
each step; in evaluation they are those probabilities, the mean. The defaults are the paper's for
permuted MNIST. Weights begin as those of `nn.LSTM`.

With --p this is h-detach and zoneout together, which the h-detach paper calls orthogonal: at a
detached step h_{t-1} is cut as it enters the step, from the gates and from the copy that a
zoned-out unit keeps, as a loop with `h = h.detach()` does. The cell is never cut.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.options import PROBABILITY, SHARE, option
from training.methods import MethodOptions, RecurrentMethod, draw_uniform

State = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    p: float = option(
        0.0,
        "probability that a step's hidden state is detached; 0 is zoneout alone",
        within=PROBABILITY,
    )
    zoneout_c: float = option(
        0.15, "probability that a cell keeps its value for a step", within=SHARE
    )
    zoneout_h: float = option(
        0.15, "probability that a hidden unit keeps its value for a step", within=SHARE
    )


class Method(RecurrentMethod):
    """The network of the module's docstring; its output is h_t."""

    def __init__(
        self, input_size: int, hidden_size: int, options: Options, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden_size = self.output_size = hidden_size
        self.p = options.p
        self.zoneout_c, self.zoneout_h = options.zoneout_c, options.zoneout_h
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        draw_uniform(self, hidden_size**-0.5, generator)

    def forward(
        self, x: Tensor, state: State | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Run all steps; `state` is (h, c), two of [B, H]."""
        is_detached, keeps_h, keeps_c = self._draw(x, generator)
        projected = nn.functional.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)
        recurrent = self.weight_hh.t()
        zeros = x.new_zeros(x.shape[1], self.hidden_size)
        h, c = state or (zeros, zeros)
        outputs = []
        for t, now in enumerate(projected.unbind()):
            if is_detached[t]:
                h = h.detach()
            gates = torch.addmm(now, h, recurrent)
            i, f, g, o = gates.chunk(4, dim=1)
            new_c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
            new_h = o.sigmoid() * new_c.tanh()
            c = _zone_out(c, new_c, keeps_c, t)
            h = _zone_out(h, new_h, keeps_h, t)
            outputs.append(h)
        return torch.stack(outputs), (h, c)

    def stop_detaching(self) -> None:
        self.p = 0.0

    def _draw(
        self, x: Tensor, generator: torch.Generator | None
    ) -> tuple[list[bool], Tensor | float, Tensor | float]:
        """Return which steps are detached, and where (or, in evaluation, how much) units stay."""
        steps, rows, _ = x.shape
        if not self.training:
            return [False] * steps, self.zoneout_h, self.zoneout_c
        device = x.device if generator is None else generator.device
        # Drawn at p = 0 too, so that zoneout's masks are the same for every p.
        chances = torch.rand(steps, generator=generator, device=device)

        def draw(probability: float) -> Tensor | float:
            if probability == 0:
                return 0.0
            shape = (steps, rows, self.hidden_size)
            drawn = torch.rand(shape, generator=generator, device=device)
            return (drawn < probability).to(x.device)

        is_detached = (chances < self.p).tolist()
        return is_detached, draw(self.zoneout_h), draw(self.zoneout_c)


def _zone_out(old: Tensor, new: Tensor, keeps: Tensor | float, t: int) -> Tensor:
    if isinstance(keeps, Tensor):
        return torch.where(keeps[t], old, new)  # to the bit
    return new if keeps == 0 else torch.lerp(new, old, keeps)
