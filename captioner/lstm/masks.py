"""Which steps of a sequence are detached: the random part of h-detach, and nothing else.

A mask is an explicit tensor that the recurrences take as an argument, so that a run can be
repeated and a gradient tested. `p` is the probability to *detach*, as in Algorithm 1 of
Kanuparthi, Arpit et al. (ICLR 2019) and in its figures; the paper's section 2.3 writes 1 - p.
"""

import torch
from torch import Tensor

from captioner.errors import OptionError


def check_probability(p: float, name: str = "p") -> None:
    """Raise `OptionError` unless `p` is a probability."""
    if not 0.0 <= p <= 1.0:
        raise OptionError(f"{name} is {p}; a probability lies between 0 and 1")


def sample_keep(steps: int, p: float, *, generator: torch.Generator) -> Tensor:
    """Draw for each step whether the hidden state entering it stays in the graph.

    One number per step serves the whole batch. At p = 0 nothing is drawn, so a plain LSTM
    leaves the generator as it was.

    Shapes:
        -> [steps] float32 on the generator's device: 0 detaches h_{t-1} (probability `p`), 1 keeps.
    Raises:
        OptionError: `p` is no probability.
    """
    check_probability(p)
    if p == 0.0:
        return torch.ones(steps, device=generator.device)
    draws = torch.rand(steps, generator=generator, device=generator.device)
    return (draws >= p).to(torch.float32)
