"""The recurrent methods that the benchmarks compare, one file of this folder each.

A file defines `Options`, the flags that only this method has, and `Method`, a network from
sequences to what an output layer reads. A new file is a new value of `--model`; nothing else has
to be told. Shapes: T steps, B sequences, I inputs, O outputs.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.options import Options

State = Any  # a tensor, or a nested tuple of tensors


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """The flags of a method. Its file subclasses this as `Options`, with fields by `option`."""


class RecurrentMethod(nn.Module):
    """A network that reads sequences step by step. Its file subclasses this as `Method`.

    It is made as `Method(input_size, hidden_size, options, generator=generator)` and draws all its
    weights from the generator, so that the same seed gives the same weights whatever the
    probabilities are.
    """

    output_size: int  # O, what the output layer reads
    is_causal: bool = True  # no output depends on later steps, so a sequence can be read in pieces

    def forward(
        self, x: Tensor, state: State | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """Return what the output layer reads at every step, and the state behind the last one.

        `state` is what an earlier call returned, None at the beginning of the sequences. In
        training `generator` is where masks are drawn from; in evaluation nothing is drawn.

        Shapes:
            x [T, B, I] -> outputs [T, B, O].
        """
        raise NotImplementedError

    def summary(self, outputs: Tensor, state: State) -> Tensor:  # noqa: ARG002
        """Return what a whole sequence is classified by, from the results of `forward`: [B, O]."""
        return outputs[-1]

    def stop_detaching(self) -> None:
        """From here on train the plain network; nothing to do where nothing is detached."""


class LoadedMethod(NamedTuple):
    options: type[MethodOptions]
    method: Callable[..., RecurrentMethod]


def method_names() -> list[str]:
    """Return the values of `--model`: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_method(name: str) -> LoadedMethod:
    """Return the two classes of a method.

    Raises:
        OptionError: there is no such method.
    """
    if name not in method_names():
        raise OptionError(f"--model is {name!r}; it can be {' or '.join(method_names())}")
    module = import_module(f"{__name__}.{name}")
    return LoadedMethod(module.Options, module.Method)


def draw_uniform(module: nn.Module, bound: float, generator: torch.Generator) -> None:
    """Draw every parameter of a module from U(-bound, bound), in the order they are named."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
