"""The LSTM: plain at p = 0, and with h-detach (Kanuparthi, Arpit et al., ICLR 2019) above.

    i, f, o = sigmoid(W x_t + U h'_{t-1} + b),  g = tanh(W x_t + U h'_{t-1} + b)
    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)

where h' is h with its gradient stopped at steps that are drawn with probability p, one draw for
the whole batch. All weights and both biases are U(-1/sqrt(H), 1/sqrt(H)), as in the authors' code:
there is no bias of the forget gate. The paper stacks no layers and leaves open whether they
should share their masks; `--layer-masks` has both ways.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.lstm import HDetachLSTM
from captioner.lstm.layer import LAYER_MASKS
from captioner.options import AT_LEAST_ONE, PROBABILITY, option
from training.methods import MethodOptions, RecurrentMethod, State, draw_uniform


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    p: float = option(
        0.0,
        "probability that a step's hidden state is detached; 0 is a plain LSTM",
        within=PROBABILITY,
    )
    cell_p: float = option(
        0.0, "the same for the cell state, the paper's c-detach", within=PROBABILITY
    )
    damping: bool = option(
        False, "draw nothing, but multiply the gradients by 1 - p, the mean of the draws"
    )
    layers: int = option(1, "LSTMs on top of each other", within=AT_LEAST_ONE)
    layer_masks: str = option(
        "shared", "whether layers are detached at the same steps", choices=LAYER_MASKS
    )
    bidirectional: bool = option(False, "read the sequence from both ends")

    def contradictions(self) -> Iterable[str]:
        if self.damping and not (self.p or self.cell_p):
            yield "--damping is given with --p 0; give the --p whose mean it takes"


class Method(RecurrentMethod):
    def __init__(
        self, input_size: int, hidden_size: int, options: Options, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.lstm = HDetachLSTM(
            input_size,
            hidden_size,
            options.layers,
            bidirectional=options.bidirectional,
            p=options.p,
            cell_p=options.cell_p,
            damping=options.damping,
            layer_masks=options.layer_masks,
        )
        draw_uniform(self.lstm, hidden_size**-0.5, generator)
        self.is_causal = not options.bidirectional
        self.output_size = hidden_size * (2 if options.bidirectional else 1)

    def forward(
        self, x: Tensor, state: State | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        self.lstm.generator = generator
        return self.lstm(x, state)

    def summary(self, outputs: Tensor, state: State) -> Tensor:  # noqa: ARG002
        """Return the hidden state at the end, of the last layer: in each direction its own end."""
        h_n, _ = state
        return torch.cat([h_n[-2], h_n[-1]], dim=1) if self.lstm.bidirectional else h_n[-1]

    def stop_detaching(self) -> None:
        self.lstm.p = self.lstm.cell_p = 0.0
