"""First weights of decoders, drawn from a generator.

Linear layers get U(-1/sqrt(in), 1/sqrt(in)), those of the recurrence 1/sqrt(hidden) as in
torch.nn.LSTM; embedding and output weights U(-0.1, 0.1), as the h-detach authors' captioner.
Other layers keep PyTorch's own weights, which follow from the seed of the generator.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Made = TypeVar("Made", bound=nn.Module | None)


def with_initial_weights(
    make: Callable[[], Made], hidden_size: int, generator: torch.Generator
) -> Made:
    """Return the module that `make` makes, if any, with fresh weights.

    Layers are known by their names: `..._gates` belong to a recurrence of this hidden size, and
    `output` gives the logits of words.
    """
    # Not on the meta device: its first use imports symbolic algebra for seconds.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(generator.initial_seed())
        made = make()
    if made is None:
        return made
    with torch.no_grad():
        for path, module in made.named_modules():
            if isinstance(module, nn.Linear):
                is_output = path.rpartition(".")[2] == "output"
                of_gates = path.endswith("_gates")
                bound = 1.0 / math.sqrt(hidden_size if of_gates else module.in_features)
                bound = 0.1 if is_output else bound
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None and is_output:
                    module.bias.zero_()
                elif module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                module.weight.uniform_(-0.1, 0.1, generator=generator)
    return made
