"""The three graphs of a captioner: pixels to features, features to memory, and one step.

Each wraps a module of PyTorch as it stands and gives it inputs and outputs by name, so that every
encoder and every decoder that can run can be exported. Shape letters: B images, K captions per
image after a step and K' before it, Q words asked for, C candidates.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captioner.decoders.interface import Decoder
from captioner.encoder.interface import Encoder
from captioner.errors import EncoderError, OptionError
from captioner.export.fusion import average_by_products, merge_products
from captioner.export.operators import OPSET, best, exportable, pick_rows
from captioner.export.simplification import fold_sizes
from captioner.export.weights import lift_constants, write_model
from captioner.features import Features
from captioner.graphs import (
    ATTENTION,
    ATTRIBUTES,
    CANDIDATES,
    COUNT,
    FEATURES,
    LOG_PROBS,
    MEMORY,
    NEXT,
    PARENTS,
    PIXELS,
    STATE,
    WANTED,
    WANTED_LOG_PROBS,
    WORDS,
)
from captioner.text import in_one_line
from captioner.vocabulary import PAD, START, UNKNOWN

# Of the tensors that are followed through the modules: any sizes, all different.
_IMAGES, _CAPTIONS_BEFORE, _CAPTIONS, _COUNT, _WANTED = 2, 4, 3, 5, 6


class EncoderGraph(nn.Module):
    """pixels uint8 [B, h, w, 3] -> the fields of `Features`."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.scale: Tensor
        self.shift: Tensor
        stated = encoder.preprocessing
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (stated.mean, stated.std))
        self.register_buffer("scale", 1.0 / (255.0 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        values = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return tuple(present(self.encoder(values)).values())


class PrepareGraph(nn.Module):
    """The fields of `Features` -> the memory of steps, the state before START, attributes."""

    def __init__(self, decoder: Decoder, fields: Sequence[str], memory: Sequence[str]) -> None:
        super().__init__()
        self.decoder = decoder
        self.fields = fields
        self.memory = memory

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        memory = self.decoder.prepare(Features(**dict(zip(self.fields, features, strict=True))))
        held, outputs = list(features), []
        kept = [getattr(memory, name) for name in self.memory]
        found = self.decoder.attributes(memory) or ()
        for part in (*kept, *self.decoder.start(memory), *found):
            # The exporter has one name for what is an input as well, or stands for two outputs.
            outputs.append(part + 0 if any(part is one for one in held) else part)
            held.append(part)
        return tuple(outputs)


class StepGraph(nn.Module):
    """words, parents [B, K], count [1], wanted [B, Q], state, memory -> candidates, next state."""

    def __init__(self, decoder: Decoder, state: Any, memory: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.state_type, self.memory_type = type(state), type(memory)
        self.register_buffer("word_table", decoder._word_table)  # here it becomes a weight
        self.never: Tensor
        never = torch.zeros(decoder.vocabulary_size)
        never[[PAD, START, UNKNOWN]] = -torch.inf
        self.register_buffer("never", never)

    def forward(
        self, words: Tensor, parents: Tensor, count: Tensor, wanted: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        parts = len(self.state_type._fields)
        state = self.state_type(*(pick_rows(part, parents) for part in tensors[:parts]))
        memory = self.memory_type(*tensors[parts:])
        logits, state, attention = self.decoder.step(words, state, memory)
        log_probs = logits.log_softmax(-1) + self.never
        # One row of wanted words for every caption; there is an operator less than in `expand`.
        asked = log_probs.gather(2, wanted.unsqueeze(1) + 0 * parents.unsqueeze(2))
        looked = () if attention is None else (attention,)
        return (*best(log_probs, count), asked, *state, *looked)


def present(features: Features) -> dict[str, Any]:
    """Return the fields that hold something, by name."""
    return {name: values for name, values in vars(features).items() if values is not None}


@torch.no_grad()
def write_encoder(encoder: Encoder, path: Path) -> None:
    """Write an encoder as a graph.

    Raises:
        EncoderError: it holds what cannot be exported.
    """
    side = encoder.preprocessing.image_size
    pixels = torch.randint(256, (_IMAGES, side, side, 3), dtype=torch.uint8)
    graph = EncoderGraph(encoder).eval()
    fields = list(present(encoder(torch.zeros(_IMAGES, 3, side, side))))
    try:
        _write(graph, path, {PIXELS: pixels}, [FEATURES + name for name in fields], {})
    except OSError:  # of the disk
        raise
    except Exception as problem:  # whatever the exporter says, in one line
        raise EncoderError(_refusal(f"encoder {encoder.config.name}", problem)) from problem


@torch.no_grad()
def write_decoder(decoder: Decoder, grid: int, prepare: Path, step: Path) -> None:
    """Write a decoder's `prepare` with `start` as one graph and its `step` as another.

    Raises:
        OptionError: it holds what cannot be exported.
    """
    features = Features(torch.randn(_IMAGES, grid * grid, decoder.feature_size))
    decoder.fold_words()
    try:
        memory = decoder.prepare(features)
        start = decoder.start(memory)
        state, growing = _after_some_steps(decoder, memory, start)
        inputs = {
            WORDS: torch.full((_IMAGES, _CAPTIONS), START),
            PARENTS: torch.zeros(_IMAGES, _CAPTIONS, dtype=torch.int64),
            COUNT: torch.tensor([_COUNT]),
            WANTED: torch.zeros(_IMAGES, _WANTED, dtype=torch.int64),
            **{STATE + name: part for name, part in zip(state._fields, state, strict=True)},
            **{MEMORY + name: part for name, part in zip(memory._fields, memory, strict=True)},
        }
        outputs = [LOG_PROBS, CANDIDATES, WANTED_LOG_PROBS]
        outputs += [NEXT + name for name in state._fields]
        looks = decoder.step(inputs[WORDS][:, :1], start, memory).attention is not None
        outputs += [ATTENTION] * looks
        axes = {WORDS: {1: "K"}, PARENTS: {1: "K"}, WANTED: {1: "Q"}}
        for name, sizes in growing.items():
            axes[STATE + name] = {1: "captions", **{place: f"{name}.{place}" for place in sizes}}
        read = _write(StepGraph(decoder, state, memory).eval(), step, inputs, outputs, axes)
        kept = [name for name in memory._fields if MEMORY + name in read]
        found = decoder.attributes(memory)
        _write(
            PrepareGraph(decoder, list(present(features)), kept).eval(),
            prepare,
            {FEATURES + name: values for name, values in present(features).items()},
            [
                *(MEMORY + name for name in kept),
                *(STATE + name for name in start._fields),
                *(ATTRIBUTES + name for name in (found._fields if found else ())),
            ],
            {},
        )
    except OSError:  # of the disk
        raise
    except Exception as problem:  # whatever the exporter says, in one line
        raise OptionError(_refusal(f"decoder {decoder.name}", problem)) from problem
    finally:
        decoder._word_table = None


def _after_some_steps(decoder: Decoder, memory: Any, state: Any) -> tuple[Any, dict[str, set[int]]]:
    """Return a state of several captions, and by its part the dimensions that steps lengthen."""
    rows = torch.zeros(_IMAGES, _CAPTIONS_BEFORE, dtype=torch.int64)
    state = type(state)(*(pick_rows(part, rows) for part in state))
    sizes = [part.shape for part in state]
    for _ in range(2):
        state = decoder.step(torch.full_like(rows, START), state, memory).state
    growing = {
        name: {place for place in range(2, part.ndim) if part.shape[place] != size[place]}
        for name, part, size in zip(state._fields, state, sizes, strict=True)
    }
    return state, growing


def _write(
    graph: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> list[str]:
    """Write a module as a graph; return the names of the inputs that it reads.

    The first dimension of every input but `count` is that of the images.
    """
    dynamic = {name: {0: "B", **axes.get(name, {})} for name in inputs if name != COUNT}
    import onnx

    with warnings.catch_warnings(), exportable():
        # Of this exporter's retirement, and of sizes that it takes for constants: those are
        # checked afterwards, with other sizes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**dynamic, **{name: {0: "B"} for name in outputs}},
        )
    model = onnx.load(path)
    lift_constants(model.graph)
    given = {name: values.numpy() for name, values in inputs.items()}
    fold_sizes(model, given, {name: _longer(given[name], name, dynamic) for name in given})
    average_by_products(model)
    if COUNT in inputs:  # a step has few rows; elsewhere dividing what is merged takes longer
        merge_products(model.graph)
    write_model(model, path)
    return [one.name for one in model.graph.input]


def _longer(values: np.ndarray, name: str, dynamic: Mapping[str, Mapping[int, str]]) -> np.ndarray:
    """Return an input whose every size that can change is greater by 1."""
    if name == COUNT:
        return values + 1
    sizes = [(0, place in dynamic[name]) for place in range(values.ndim)]
    return np.pad(values, sizes, mode="edge")


def _refusal(what: str, problem: Exception) -> str:
    reason = in_one_line(str(problem).splitlines()[0] if str(problem) else type(problem).__name__)
    return f"{what} cannot be exported: {reason[:300]}; run the checkpoint itself by torch"
