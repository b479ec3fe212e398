"""Draw the vanishing gradient of the textbook, on MNIST.

First over depth: the norm of each layer's gradient in a deep network of sigmoids, of tanh and of
ReLUs, while it learns, with and without clipping (Glorot and Bengio 2010; He et al. 2015). Then
over time: the gradient by time lag in an RNN and in an LSTM that read an image a few pixels at a
time (Bengio et al. 1994; Pascanu et al. 2013).

    python training/vanishing_gradients.py --mnist data/mnist --out runs/vanishing_gradients
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captioner.errors import OptionError
from captioner.options import OneLineParser
from captioner.progress import Progress
from training.figure_tools import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    STYLE,
    StudyConfig,
    new_figure,
    parse_study,
    run_study,
    study_parser,
    use_threads,
    write_study,
)
from training.mnist import load_mnist
from training.randomness import derived_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "vanishing_gradients"
CLASSES, PIXELS = 10, 28 * 28
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels between 0 and 1
ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU}
SEQUENCE_RATE = 1e-3  # of Adam, for RNN and LSTM
SNAPSHOTS = 4  # of the gradient over time, the first before the training
POINTS = 60  # of a drawn curve over the updates
_COLOURS = {"sigmoid": BLUE, "tanh": GREEN, "ReLU": ORANGE}
_DASHED = (0, (2, 1.2))
_LEAST_NORM = 1e-12  # drawn


@dataclass(frozen=True, kw_only=True)
class VanishingConfig(StudyConfig):
    depth: int = 10  # hidden layers
    width: int = 64
    updates: int = 600
    learning_rate: float = 0.3
    clip_norm: float = 1.0
    batch_size: int = 64
    hidden_size: int = 64  # of RNN and LSTM
    steps: int = 112
    sequence_updates: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if PIXELS % self.steps:
            raise OptionError(
                f"--steps is {self.steps}; it must divide the {PIXELS} pixels of an image: "
                "28, 56, 112, 196, 392 or 784, for example"
            )


_HELPS = {
    "depth": "hidden layers of the deep networks",
    "width": "units of each of them",
    "updates": "of each deep network, by plain gradient descent",
    "learning_rate": "of the deep networks",
    "clip_norm": "norm to which gradients are clipped, in the second row",
    "batch_size": "images per update",
    "hidden_size": "units of the RNN and the LSTM",
    "steps": "in which they read an image",
    "sequence_updates": "of the RNN and the LSTM, by Adam",
}


@dataclass(frozen=True)
class Images:
    """MNIST's training images, and batches of them in an order that a seed fixes."""

    pixels: Tensor  # [N, 784] uint8
    labels: Tensor  # [N]

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return pixels between 0 and 1 [size, 784], and labels [size]."""
        chosen = torch.randint(len(self.labels), (size,), generator=generator)
        return self.pixels[chosen].float() / 255, self.labels[chosen]


def deep_network(
    config: VanishingConfig, activation: str, generator: torch.Generator
) -> nn.Sequential:
    """Return a network with the initial weights that suit its activation, and zero biases."""
    layers: list[nn.Module] = []
    sizes = [PIXELS, *[config.width] * config.depth]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    layers.append(nn.Linear(config.width, CLASSES))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            if activation == "ReLU":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def train_deep(
    config: VanishingConfig, images: Images, activation: str, *, clips: bool, progress: Progress
) -> dict[str, Any]:
    """Train one deep network, and return its loss and its gradient norms over the updates.

    The norms are those of each layer's weights as the update uses them, so after clipping. They
    and the losses are means over equal spans of updates. A network whose loss is no longer a
    number stops there, and has shorter lists.
    """
    network = deep_network(config, activation, derived_generator(config.seed, activation))
    weights = [layer.weight for layer in network if isinstance(layer, nn.Linear)]
    order = derived_generator(config.seed, "batches")
    span = math.ceil(config.updates / POINTS)
    sums = torch.zeros(len(weights) + 1)
    found: dict[str, Any] = {"updates": [], "loss": [], "norms": []}
    for update in range(1, config.updates + 1):
        pixels, labels = images.batch(config.batch_size, order)
        loss = nn.functional.cross_entropy(network((pixels - MEAN) / DEVIATION), labels)
        network.zero_grad()
        loss.backward()
        if clips:
            nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        norms = torch.stack([weight.grad.norm() for weight in weights if weight.grad is not None])
        sums += torch.cat([loss.detach()[None], norms])
        if not sums.isfinite().all():
            break
        if update % span == 0 or update == config.updates:
            means = (sums / ((update - 1) % span + 1)).tolist()
            found["updates"].append(update)
            found["loss"].append(means[0])
            found["norms"].append(means[1:])
            sums.zero_()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=config.learning_rate)
        progress.advance(loss=loss.item())
    return found


class Reader(nn.Module):
    """An RNN or an LSTM that reads an image in pieces and names the digit at the end."""

    def __init__(self, config: VanishingConfig, kind: str, generator: torch.Generator) -> None:
        super().__init__()
        make = {"RNN": nn.RNNCell, "LSTM": nn.LSTMCell}[kind]
        self.steps = config.steps
        self.cell: nn.RNNCell | nn.LSTMCell = make(PIXELS // config.steps, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, CLASSES)
        bound = config.hidden_size**-0.5  # PyTorch's default for recurrent layers
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the state after each step: c_t of an LSTM, h_t of an RNN."""
        state: Any = None
        states = []
        for piece in pixels.view(len(pixels), self.steps, -1).unbind(dim=1):
            state = self.cell(piece, state)
            states.append(state if isinstance(state, Tensor) else state[1])
        return self.head(state if isinstance(state, Tensor) else state[0]), states


def train_reader(
    config: VanishingConfig, images: Images, kind: str, progress: Progress
) -> list[dict[str, Any]]:
    """Train an RNN or an LSTM; return the gradient by time lag before, during and after.

    Entry k of `norms` is the norm of the derivative of the loss, which reads the last hidden
    state only, with respect to the state k steps earlier: h of an RNN, c of an LSTM (by every
    way on from c, its own step's h included).
    """
    reader = Reader(config, kind, derived_generator(config.seed, kind))
    optimiser = torch.optim.Adam(reader.parameters(), lr=SEQUENCE_RATE)
    order = derived_generator(config.seed, "batches")
    held_out = images.batch(config.batch_size, derived_generator(config.seed, "held out"))
    when = {round(n * config.sequence_updates / (SNAPSHOTS - 1)) for n in range(SNAPSHOTS)}
    snapshots = []
    for update in range(config.sequence_updates + 1):
        if update in when:
            logits, states = reader(held_out[0])
            loss = nn.functional.cross_entropy(logits, held_out[1])
            grads = torch.autograd.grad(loss, states)
            norms = [float(grad.norm()) for grad in reversed(grads)]
            snapshots.append({"update": update, "loss": loss.item(), "norms": norms})
        if update == config.sequence_updates:
            break
        pixels, labels = images.batch(config.batch_size, order)
        loss = nn.functional.cross_entropy(reader(pixels)[0], labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), config.clip_norm)
        optimiser.step()
        progress.advance(loss=loss.item())
    return snapshots


def draw(config: VanishingConfig, figures: dict[str, Any]) -> "Figure":
    """Draw the norms per layer without and with clipping, then those by time lag, and losses."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    with matplotlib.rc_context(STYLE):
        figure = new_figure(11.5, 10.2)
        axes = figure.subplots(3, 3)
        layers = config.depth + 1
        clipping = ((False, ""), (True, f", clipped to a norm of {config.clip_norm:g}"))
        whole = matplotlib.colormaps["viridis"]  # its brightest end is too pale for a line
        colours = ListedColormap([whole(0.93 * n / config.depth) for n in range(layers)])
        for row, (clips, words) in enumerate(clipping):
            axes[row, 0].set_ylabel("norm of the gradient")
            for place, activation in zip(axes[row], ACTIVATIONS, strict=True):
                _draw_layers(place, figures["deep"][_key(activation, clips)], colours)
                place.set_title(f"{activation}{words}")
                place.sharey(axes[0, 0])
        bounds = [number + 0.5 for number in range(layers + 1)]
        shown = ScalarMappable(BoundaryNorm(bounds, layers), colours)
        bar = figure.colorbar(shown, ax=axes[:2, :], aspect=50, pad=0.01)
        bar.set_label(f"layer: 1 at the input, {layers} at the output")
        bar.set_ticks([1, layers])
        axes[2, 0].set_ylabel("norm of the gradient")
        for place, kind, state in ((axes[2, 0], "RNN", "h"), (axes[2, 1], "LSTM", "c")):
            _draw_lags(place, figures["sequences"][kind])
            place.set(title=f"{kind}, with respect to its {state}", xlabel="time lag / steps")
        axes[2, 1].sharey(axes[2, 0])
        axes[2, 0].set_ylim(bottom=_LEAST_NORM)
        axes[2, 1].legend(loc="lower right")
        _draw_losses(axes[2, 2], figures["deep"])
        return figure


def _draw_layers(axes: "Axes", found: dict[str, Any], colours: Any) -> None:
    for layer, norms in enumerate(zip(*found["norms"], strict=True)):
        axes.semilogy(found["updates"], norms, color=colours(layer), linewidth=1.4)
    axes.set_xlabel("updates")


def _draw_lags(axes: "Axes", snapshots: Sequence[dict[str, Any]]) -> None:
    import matplotlib

    colours = matplotlib.colormaps["cividis"].resampled(len(snapshots) + 1)
    for number, snapshot in enumerate(snapshots):
        axes.semilogy(
            [norm or math.nan for norm in snapshot["norms"]],
            color=colours(number),
            label=f"update {snapshot['update']:,}",
        )


def _draw_losses(axes: "Axes", deep: dict[str, Any]) -> None:
    for activation, colour in _COLOURS.items():
        plain, clipped = (deep[_key(activation, clips)] for clips in (False, True))
        axes.plot(plain["updates"], plain["loss"], color=colour, label=activation)
        axes.plot(clipped["updates"], clipped["loss"], color=colour, linestyle=_DASHED)
    axes.plot([], [], color=FAINT, linestyle=_DASHED, label="clipped")
    axes.set(
        xlabel="updates", ylabel="cross-entropy / nats", title="Loss of the deep networks", ylim=0
    )
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.82))


def _key(activation: str, clips: bool) -> str:
    return f"{activation}, clipped" if clips else activation


def main(words: Sequence[str] | None = None) -> int:
    """Compute, write and draw what the command line asks for; return the exit status."""
    return run_study(NAME, lambda: _study(words))


def _study(words: Sequence[str] | None) -> None:
    out, values = parse_study(build_parser(), words)
    folder, download = values.pop("mnist"), values.pop("download")
    config = VanishingConfig(**values)
    use_threads(config)
    pixels, labels = load_mnist(folder, download=download)
    images = Images(pixels.flatten(1), labels)
    figures = compute(config, images)
    write_study(out, NAME, config, figures, draw(config, figures))


def compute(config: VanishingConfig, images: Images) -> dict[str, Any]:
    """Return the figures over depth and over time, with their progress on standard error."""
    deep, total = {}, 2 * len(ACTIVATIONS) * config.updates
    with Progress(total, "deep networks", unit="updates") as progress:
        for activation in ACTIVATIONS:
            for clips in (False, True):
                deep[_key(activation, clips)] = train_deep(
                    config, images, activation, clips=clips, progress=progress
                )
    with Progress(2 * config.sequence_updates, "RNN and LSTM", unit="updates") as progress:
        kinds = ("RNN", "LSTM")
        sequences = {kind: train_reader(config, images, kind, progress) for kind in kinds}
    return {"deep": deep, "sequences": sequences}


def build_parser() -> OneLineParser:
    """Return the parser of this script's command line."""
    parser = study_parser(
        NAME, "Draw how gradients vanish over depth and over time.", VanishingConfig(), _HELPS
    )
    parser.add_argument(
        "--mnist",
        type=Path,
        default=Path("data", "mnist"),
        metavar="FOLDER",
        help="folder that holds MNIST/raw (default: data/mnist)",
    )
    parser.add_argument(
        "--download", action="store_true", default=False, help="fetch MNIST if it is not there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
