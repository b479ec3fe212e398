"""The optimiser of a run: what it moves, how fast, and how its state is stored.

Adam with decoupled weight decay (Loshchilov and Hutter 2019; at decay 0 it is plain Adam). The
learning rate is a function of the step alone, so resuming needs no state for it.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from training.config import TrainingConfig


def build_optimiser(
    decoder: nn.Module, encoder_parameters: Sequence[nn.Parameter], config: TrainingConfig
) -> torch.optim.AdamW:
    """Return the optimiser; the encoder has its own learning rate, vectors do not decay."""
    groups = []
    for is_encoder, parameters, lr in (
        (False, list(decoder.parameters()), config.lr),
        (True, list(encoder_parameters), config.effective_encoder_lr),
    ):
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups += [
            {
                "params": members,
                "lr": lr,
                "full_lr": lr,
                "is_encoder": is_encoder,
                "weight_decay": decay,
            }
            for members, decay in ((matrices, config.weight_decay), (vectors, 0.0))
            if members
        ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def lr_factor(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Return the share of the full learning rate that step number `step` (from 0) uses."""
    if step < config.warmup_steps:
        return _warm_up(step, config)
    if config.lr_schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def encoder_lr_factor(
    step: int, total_steps: int, steps_per_epoch: int, config: TrainingConfig
) -> float:
    """Return the same for the encoder, which warms up anew when its frozen epochs are over."""
    factor = lr_factor(step, total_steps, config)
    trained_steps = step - config.frozen_epochs * steps_per_epoch
    if config.frozen_epochs and 0 <= trained_steps < config.warmup_steps:
        return factor * _warm_up(trained_steps, config)
    return factor


def _warm_up(step: int, config: TrainingConfig) -> float:
    return (step + 1) / config.warmup_steps


def set_lr(optimiser: torch.optim.Optimizer, factor: float, encoder_factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["full_lr"] * (encoder_factor if group["is_encoder"] else factor)


def clip_gradients(parameters: Sequence[nn.Parameter], config: TrainingConfig) -> None:
    """Bound the gradients as the configuration says: their common norm, or each value."""
    if config.clip_norm:
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    elif config.clip_value:
        nn.utils.clip_grad_value_(parameters, config.clip_value)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors."""
    return {
        f"{index}.{name}": value
        for index, entries in optimiser.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` returned; the learning rates stay those of `optimiser`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, entry = name.split(".")
        state.setdefault(int(index), {})[entry] = value.clone()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    for parameter, entries in optimiser.state.items():
        for entry, value in entries.items():
            if value.shape == parameter.shape:
                # The fused step walks through memory as if all were laid out alike.
                entries[entry] = torch.empty_like(parameter, requires_grad=False).copy_(value)
