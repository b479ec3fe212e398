"""Detach masks: the random choice of the steps of a sequence that are detached.

A mask is an explicit tensor argument of the recurrences, so a run can be repeated and a gradient
tested. `p` is the probability to *detach*, as in Algorithm 1 of Kanuparthi, Arpit et al. (ICLR
2019) and in its figures; the paper's section 2.3 writes 1 - p.
"""

from typing import Any

import torch
from torch import Tensor

from captioner.errors import OptionError


def check_probability(p: float, name: str = "p") -> None:
    """Raise `OptionError` unless `p` is a probability."""
    if not 0.0 <= p <= 1.0:
        raise OptionError(f"{name} is {p}; a probability lies between 0 and 1")


def sample_keep(
    steps: int,
    p: float,
    *,
    batch_size: int | None = None,
    generator: torch.Generator | None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw for each step whether the hidden state entering it stays in the graph.

    One number per step serves the whole batch, as in the paper; with `batch_size` every row of
    the batch draws its own. At p = 0 nothing is drawn, so a plain LSTM leaves the generator as
    it was. None is torch's own generator of `device`, the one that `torch.manual_seed` sets.

    Shapes:
        -> [steps] or [steps, batch_size] float32 on `device` (None: the generator's): 0 detaches
        h_{t-1} (probability `p`), 1 keeps.
    Raises:
        OptionError: `p` is no probability.
    """
    check_probability(p)
    shape = (steps,) if batch_size is None else (steps, batch_size)
    source = device if generator is None else generator.device
    if p == 0.0:
        return torch.ones(shape, device=device if device is not None else source)
    # A generator that is None is left out: Dynamo cannot draw a size that varies with one.
    drawn_by: Any = {} if generator is None else {"generator": generator}
    draws = torch.rand(shape, device=source, **drawn_by)
    return (draws >= p).to(device=device, dtype=torch.float32)
