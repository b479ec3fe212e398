"""The encoder: any image network of timm, turned into features of a grid.

Statistics of loaded weights stay as they are in fine-tuning. This is the only module that knows
timm.
"""

import difflib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from captioner.encoder.config import NONE, PRETRAINED, EncoderConfig, preprocessing_for
from captioner.encoder.interface import Encoder
from captioner.encoder.preprocessing import Preprocessing
from captioner.encoder.weights import download_options, load_state, read_state
from captioner.errors import EncoderError
from captioner.features import Features
from captioner.text import in_one_line


class TimmEncoder(Encoder):
    """Any image network of timm, without its classifier."""

    def __init__(
        self, config: EncoderConfig, preprocessing: Preprocessing, network: nn.Module
    ) -> None:
        # Up to twice as fast on a CPU, never slower by much; of the same meaning everywhere.
        network = network.to(memory_format=torch.channels_last)
        super().__init__(config, preprocessing, network)
        for module in self._batch_norms():
            module.register_forward_pre_hook(self._before_norm)
            module.register_forward_hook(self._after_norm)
        self.feature_size = self._try_out()

    @classmethod
    def create(cls, config: EncoderConfig, generator: torch.Generator | None = None) -> Self:
        from timm.data import resolve_model_data_config

        path = (
            None
            if config.weights in (PRETRAINED, NONE)
            else Path(os.path.expanduser(config.weights))
        )
        state = None if path is None else read_state(path)
        network = _network(config, generator)
        classifiers = network.pretrained_cfg.get("classifier") or ()
        if isinstance(classifiers, str):
            classifiers = (classifiers,)
        unused = (*classifiers, *network.state_dict())
        _prune(network, config)
        if state is not None:
            load_state(network, state, unused, f"encoder weights {path}")
        return cls(config, preprocessing_for(config, resolve_model_data_config(network)), network)

    @classmethod
    def restore(
        cls, config: EncoderConfig, preprocessing: Preprocessing, state: dict[str, Tensor]
    ) -> Self:
        network = _network(replace(config, weights=NONE), None)
        _prune(network, config)
        load_state(network, state, (), "the saved state")
        return cls(config, preprocessing, network)

    def forward(self, pixels: Tensor) -> Features:
        """Return the features of normalised pixels [B, 3, h, w].

        The feature map is averaged (or, where it is smaller, repeated) to grid x grid; position
        p lies in row p // grid.
        """
        feature_map = self._feature_map(pixels)
        if feature_map.shape[-2:] != (self.grid, self.grid):
            feature_map = nn.functional.adaptive_avg_pool2d(feature_map, self.grid)
        return Features(feature_map.flatten(2).transpose(1, 2).contiguous())

    def stages(self) -> list[list[str]]:
        """Return the names of the network's parameters by stage, from the pixels to the output.

        Stages are timm's own coarse groups for layer-wise learning rates: a ResNet has its stem
        and four stages, MobileNetV2 its stem and seven (the last with the final convolution), a
        transformer its stem and one per block.
        """
        from timm.models import group_parameters

        if hasattr(self.network, "group_matcher"):
            groups = group_parameters(self.network, self.network.group_matcher(coarse=True))
            return [list(groups[number]) for number in sorted(groups)]
        return super().stages()

    def classifier(self) -> tuple[Tensor, Tensor] | None:
        if self.config.weights == NONE or self.config.stage is not None:
            return None
        if self.config.weights == PRETRAINED:
            import timm

            whole = timm.create_model(self.config.name, pretrained=True)
            state = whole.state_dict()
        else:
            state = read_state(Path(os.path.expanduser(self.config.weights)))
        names = self.network.pretrained_cfg.get("classifier") or ()
        name = names if isinstance(names, str) else next(iter(names), "")
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if weight is None or bias is None or weight.flatten(1).shape[1] != self.feature_size:
            return None
        return weight.flatten(1), bias

    def train(self, mode: bool = True) -> Self:
        """Enter training mode, in which batch norm follows the batch only where it may.

        Statistics stay frozen where weights were loaded, for small batches would spoil them; with
        weights "none" they are learned in the stages that learn.
        """
        super().train(mode)
        if mode:
            for module in self._batch_norms():
                module.train(self._learns_statistics(module))
        return self

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def _before_norm(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Use the known statistics for one value, which has no variance."""
        if _has_one_value(inputs):
            norm.eval()

    def _after_norm(self, norm: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if self.training and _has_one_value(inputs):
            norm.train(self._learns_statistics(norm))

    def _learns_statistics(self, module: nn.Module) -> bool:
        parameters = list(module.parameters()) or list(self.network.parameters())
        return self.config.weights == NONE and any(p.requires_grad for p in parameters)

    def _feature_map(self, pixels: Tensor) -> Tensor:
        """Return the network's map [B, D, rows, columns]."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.config.stage is not None:
            return self.network.forward_intermediates(
                pixels,
                indices=[self.config.stage],
                stop_early=True,
                output_fmt="NCHW",
                intermediates_only=True,
            )[0]
        output = self.network.forward_features(pixels)
        if isinstance(output, Tensor) and output.ndim == 3:
            has_class_token = getattr(self.network, "cls_token", None) is not None
            prefix = int(getattr(self.network, "num_prefix_tokens", has_class_token))
            return _tokens_as_map(output, prefix)
        if isinstance(output, Tensor) and output.ndim == 4:
            last = str(getattr(self.network, "output_fmt", "NCHW")) == "NHWC"
            return output.permute(0, 3, 1, 2) if last else output
        kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise EncoderError(f"its output is {kind}, not one feature map")

    def _try_out(self) -> int:
        """Return the number of features per position, found with a blank image.

        Raises:
            EncoderError: the network does not take the image or gives no grid of features.
        """
        side = self.preprocessing.image_size
        if self.preprocessing.image_mode == "whole":
            side = min(side, 224)
        try:
            with torch.inference_mode():
                return self(torch.zeros(1, 3, side, side)).grid.shape[-1]
        except Exception as problem:  # whatever the network says, in one line
            raise EncoderError(
                f"encoder {self.config.name} gives no grid of features for images of {side} "
                f"pixels: {in_one_line(problem)[:200]}; choose another encoder, stage or image size"
            ) from problem


def _has_one_value(inputs: tuple[Tensor, ...]) -> bool:
    """Return whether a channel has one value in the batch: one image, one position."""
    return inputs[0].numel() == inputs[0].shape[1]


def _network(config: EncoderConfig, generator: torch.Generator | None) -> Any:
    """Return timm's network without classifier, with random or downloaded weights."""
    import timm
    from timm.models import get_pretrained_cfg

    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all"
        raise EncoderError(f"timm has no network {config.name!r}; {hint}")
    try:
        stated = get_pretrained_cfg(config.name, allow_unregistered=False)
    except RuntimeError:
        known = ", ".join(timm.list_pretrained(config.name.partition(".")[0] + ".*"))
        raise EncoderError(
            f"timm has no weights of the name {config.name!r}; it has {known or 'none of these'}"
        ) from None
    options: dict[str, Any] = {}
    if stated is not None and stated.fixed_input_size:
        if config.image_mode == "whole":
            raise EncoderError(
                f"encoder {config.name} takes squares of one size; choose --image-mode crop or "
                "squash"
            )
        options["img_size"] = config.image_size
    if config.weights == PRETRAINED:
        options |= download_options(config.name, stated)
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed reaches GPUs as well
        try:
            return timm.create_model(config.name, num_classes=0, **options)
        except Exception as problem:
            remedy = "choose another encoder or image size"
            if config.weights == PRETRAINED:
                remedy = "give --encoder-weights FILE or none"
            raise EncoderError(
                f"encoder {config.name} cannot be made: {in_one_line(problem)[:300]}; {remedy}"
            ) from problem


def _prune(network: Any, config: EncoderConfig) -> None:
    """Remove what lies behind the chosen stage."""
    if config.stage is None:
        return
    if not hasattr(network, "forward_intermediates"):
        raise EncoderError(
            f"encoder {config.name} does not give its inner feature maps; leave out --encoder-stage"
        )
    count = len(network.feature_info)
    if not 0 <= config.stage < count:
        raise EncoderError(
            f"encoder {config.name} has the stages 0 to {count - 1}, stage {config.stage} is not "
            "one of them; change --encoder-stage"
        )
    network.prune_intermediate_layers([config.stage], prune_norm=True, prune_head=True)


def _tokens_as_map(tokens: Tensor, prefix: int) -> Tensor:
    """Return tokens [B, prefix + side * side, D] as a map [B, D, side, side]."""
    tokens = tokens[:, prefix:]
    side = math.isqrt(tokens.shape[1])
    if side < 2 or side * side != tokens.shape[1]:
        raise EncoderError(f"its {tokens.shape[1]} tokens form no square grid")
    return tokens.transpose(1, 2).unflatten(2, (side, side))
