"""Speed on a GPU: the backends of the h-detach LSTM beside cuDNN's, and several seeds at once.

A figure is the median time of a forward and a backward pass, by CUDA's own clock. cuDNN and Triton
have the same setting of TF32 in each row: both may round their products' operands, or neither.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from captioner.lstm import HDetachLSTM
from captioner.lstm.several import several_lstms

WARM_UP = 3


class Size(NamedTuple):
    name: str
    steps: int
    batch: int
    inputs: int
    hidden: int


SIZES = (
    Size("copying, T = 100", 120, 100, 1, 128),
    Size("copying, T = 300", 320, 100, 1, 128),
    Size("pixel MNIST", 784, 100, 1, 100),
)
TINY = (Size("tiny", 3, 4, 1, 8),)
SEEDS = (1, 2, 4, 8)


def against_cudnn(
    device: torch.device, sizes: tuple[Size, ...], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield milliseconds of a pass for each size, setting of TF32 and LSTM."""
    for size in sizes:
        for is_tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = is_tf32
            torch.backends.cudnn.allow_tf32 = is_tf32
            for name, module in lstms(size, device).items():
                yield {
                    "size": size.name,
                    "tf32": is_tf32,
                    "lstm": name,
                    "milliseconds": median_milliseconds(
                        training_pass(module, size, device), device, rounds
                    ),
                }


def lstms(size: Size, device: torch.device) -> dict[str, nn.Module]:
    """Return LSTMs of the same weights: PyTorch's, by cuDNN on a GPU, and ours."""
    torch.manual_seed(0)
    base = nn.LSTM(size.inputs, size.hidden)
    made: dict[str, nn.Module] = {"nn.LSTM": base}
    for backend, p in (("triton", 0.0), ("triton", 0.25), ("torch", 0.25)):
        layer = HDetachLSTM(size.inputs, size.hidden, p=p, backend=backend)
        layer.load_state_dict(base.state_dict())
        made[f"{backend}, p = {p:g}"] = layer
    return {name: module.to(device) for name, module in made.items()}


def seeds_at_once(
    device: torch.device, size: Size, counts: tuple[int, ...], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of a pass of so many models: one after the other, and side by side.

    The kernels of a model of this size fill a small part of a large GPU. Side by side, each has a
    stream of its own, in one process; in one launch, all steps of all models are one kernel.
    """
    for count in counts:
        modules = [lstms(size, device)["triton, p = 0.25"] for _ in range(count)]
        passes = [training_pass(module, size, device) for module in modules]

        def in_turn(passes: list[Callable[[], None]] = passes) -> None:
            for one in passes:
                one()

        found = {"one after the other": median_milliseconds(in_turn, device, rounds)}
        if device.type == "cuda":
            streams = [torch.cuda.Stream(device) for _ in passes]

            def side_by_side(
                passes: list[Callable[[], None]] = passes,
                streams: list[torch.cuda.Stream] = streams,
            ) -> None:
                here = torch.cuda.current_stream(device)
                for one, stream in zip(passes, streams, strict=True):
                    stream.wait_stream(here)
                    with torch.cuda.stream(stream):
                        one()
                for stream in streams:
                    here.wait_stream(stream)

            found["side by side"] = median_milliseconds(side_by_side, device, rounds)
        in_one_launch = several_pass(modules, size, device)
        found["in one launch"] = median_milliseconds(in_one_launch, device, rounds)
        for how, milliseconds in found.items():
            yield {"size": size.name, "models": count, "how": how, "milliseconds": milliseconds}


def several_pass(
    modules: Sequence[nn.Module], size: Size, device: torch.device
) -> Callable[[], None]:
    """Return a pass of the same LSTMs by `several_lstms`, each with a mask of p = 0.25."""
    layers = [[one.detach() for one in module.parameters()] for module in modules]
    w_ih, w_hh, b_ih, b_hh = (torch.stack(some) for some in zip(*layers, strict=True))
    bias = b_ih + b_hh
    leaves = [one.requires_grad_() for one in (w_ih, w_hh, bias)]
    shape = (size.steps, len(modules), size.batch)
    x = torch.randn(*shape, size.inputs, device=device)
    grad = torch.randn(*shape, size.hidden, device=device)

    def run() -> None:
        keep = (torch.rand(size.steps, len(modules)) >= 0.25).float().to(device)
        outputs, _ = several_lstms(x, w_ih, w_hh, bias, keep, backend="triton")
        torch.autograd.grad(outputs, leaves, grad)

    return run


def training_pass(module: nn.Module, size: Size, device: torch.device) -> Callable[[], None]:
    x = torch.randn(size.steps, size.batch, size.inputs, device=device)
    grad = torch.randn(size.steps, size.batch, size.hidden, device=device)

    def run() -> None:
        module.zero_grad()
        outputs, _ = module(x)
        outputs.backward(grad)

    return run


def median_milliseconds(run: Callable[[], None], device: torch.device, rounds: int) -> float:
    for _ in range(WARM_UP):
        run()
    found = []
    for _ in range(rounds):
        if device.type != "cuda":
            started = time.perf_counter()
            run()
            found.append(1e3 * (time.perf_counter() - started))
            continue
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        run()
        after.record()
        after.synchronize()
        found.append(before.elapsed_time(after))
    return statistics.median(found)
