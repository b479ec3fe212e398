"""PyTorch as an engine: the reference for the others, the one of GPUs and of training."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from captioner.devices import choose_device
from captioner.encoder.interface import Encoder
from captioner.engines import DEPLOYABLE
from captioner.engines.interface import Attributes, Candidates, Decoding, Engine, LoadedEngine
from captioner.errors import OptionError
from captioner.features import Features
from captioner.vocabulary import PAD, START, UNKNOWN

if TYPE_CHECKING:
    from captioner.decoders import Decoder

NEVER_WRITTEN = (PAD, START, UNKNOWN)
Bundle = TypeVar("Bundle", bound=tuple[Tensor, ...])


class TorchEngine(Engine):
    """PyTorch on one device, with an encoder and a decoder that are put there."""

    name = "torch"
    encoder: Encoder

    def __init__(
        self, encoder: Encoder, decoder: "Decoder", device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.encoder = encoder.to(self.device).eval()
        self.decoder = decoder.to(self.device).eval()
        self.preprocessing = encoder.preprocessing
        self.grid = encoder.grid
        self.share_names = decoder.share_names
        detector = decoder.attribute_detector
        self.attribute_detector = "" if detector is None else detector.name

    @classmethod
    def load(cls, folder: Path, device: str, threads: int | None = None) -> LoadedEngine:
        from captioner.checkpoint import load_checkpoint

        if (folder / DEPLOYABLE).is_file():
            raise OptionError(
                f"engine is 'torch', and {folder} was exported for engines without it; leave the "
                "engine out, or take the checkpoint that the folder was made from"
            )
        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = load_checkpoint(folder, chosen)
        engine = cls(checkpoint.encoder, checkpoint.decoder, chosen)
        return LoadedEngine(engine, checkpoint.vocabulary, checkpoint.hash, checkpoint.summary)

    def encode(self, pixels: Sequence[np.ndarray]) -> Features:
        if not pixels:
            return Features(torch.empty(0, device=self.device))
        features = self.encoder.encode(pixels)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return features

    @torch.no_grad()
    def begin(self, features: Features) -> Decoding:
        return TorchDecoding(self.decoder, features.to(self.device))

    def describe(self) -> dict[str, Any]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {
            "engine": self.name,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "precision": {name: _precision(part) for name, part in parts.items()},
            "bytes": {name: _bytes(part) for name, part in parts.items()},
        }


class TorchDecoding:
    """A batch of images on its way to captions, with a decoder of PyTorch.

    Only candidates leave the device, all that a step gives in one copy, and what goes there is one
    copy too: a GPU is waited for once a step.
    """

    def __init__(self, decoder: "Decoder", features: Features) -> None:
        self._decoder = decoder
        self._memory = decoder.prepare(features)
        found = decoder.attributes(self._memory)
        self.attributes = (
            None if found is None else Attributes(*(one.cpu().numpy() for one in found))
        )
        self._state = decoder.start(self._memory)
        self._device = self._state[0].device
        self._never_written = torch.tensor(NEVER_WRITTEN, device=self._device)

    @torch.no_grad()
    def step(
        self, words: np.ndarray, parents: np.ndarray, count: int, wanted: np.ndarray
    ) -> Candidates:
        rows = words.shape[1]
        joined = torch.from_numpy(np.concatenate([words, parents, wanted], axis=1))
        word_ids, from_rows, asked = joined.to(self._device, non_blocking=True).split(
            [rows, rows, wanted.shape[1]], dim=1
        )
        if rows > 1 or self._state[0].shape[1] > 1:
            self._state = select_captions(self._state, from_rows)
        logits, self._state, attention = self._decoder.step(word_ids, self._state, self._memory)
        log_probs = logits.float().log_softmax(dim=-1)  # [B, K, V]
        log_probs.index_fill_(2, self._never_written, -math.inf)
        # One more than asked for tells whether equal words were left out.
        best, places = log_probs.topk(min(count + 1, log_probs.shape[2]), dim=2)
        of_wanted = log_probs.gather(2, asked.unsqueeze(1).expand(-1, rows, -1))
        looked = [] if attention is None else [attention.float()]
        values, words_found, wanted_found, *seen = _to_numpy([best, places, of_wanted, *looked])
        tied = (values[..., 1:] == values[..., :-1]) & (values[..., 1:] > -math.inf)
        values, words_found = values[..., :count], words_found[..., :count]
        if tied.any():  # `topk` leaves the order of equals open
            image, row = np.nonzero(tied.any(axis=2))
            ordered = log_probs[image, row].sort(dim=1, descending=True, stable=True)
            values[image, row], words_found[image, row] = (
                part[:, :count].cpu().numpy() for part in ordered
            )
        return Candidates(values, words_found, wanted_found, seen[0] if seen else None)

    def keep(self, images: np.ndarray) -> None:
        chosen = torch.from_numpy(images).to(self._device, non_blocking=True)
        self._memory = select_images(self._memory, chosen)
        self._state = select_images(self._state, chosen)


def select_images(tensors: Bundle, images: Tensor) -> Bundle:
    """Return what a NamedTuple of tensors [B, ...] holds of some images: images [n]."""
    return type(tensors)(*(part.index_select(0, images) for part in tensors))


def select_captions(tensors: Bundle, parents: Tensor) -> Bundle:
    """Return tensors [B, K', ...] of the chosen rows of tensors [B, K, ...]: parents [B, K']."""
    images = torch.arange(len(parents), device=parents.device).unsqueeze(1)
    return type(tensors)(*(part[images, parents] for part in tensors))


def _to_numpy(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return tensors [B, K, ...] of float32 or int64 as arrays, from a GPU by a single copy."""
    if tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    return unpacked(packed(tensors).cpu().numpy(), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Return the bits of tensors [B, K, n] of float32 or int64 (below 2**31) as one float32."""
    parts = [(one.int() if one.dtype == torch.int64 else one) for one in tensors]
    return torch.cat([one.contiguous().view(torch.float32) for one in parts], dim=2)


def unpacked(joined: np.ndarray, tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return what `packed` has joined as arrays of their own; `tensors` tell sizes and types."""
    parts, start = [], 0
    for one in tensors:
        part = joined[:, :, start : start + one.shape[2]].copy()
        parts.append(part.view(np.int32).astype(np.int64) if one.dtype == torch.int64 else part)
        start += one.shape[2]
    return parts


def _precision(module: nn.Module) -> str:
    kinds = {str(one.dtype).removeprefix("torch.") for one in module.parameters()}
    return "+".join(sorted(kinds)) or "none"


def _bytes(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in module.parameters())
