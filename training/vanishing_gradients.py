"""Figure of vanishing gradients, on MNIST.

Over depth: the norm of each layer's gradient in a deep network of sigmoids, of tanh and of ReLUs,
while it learns, with and without clipping (Glorot and Bengio 2010; He et al. 2015). Over time: the
gradient by time lag in an RNN and in an LSTM that read an image a few pixels at a time (Bengio et
al. 1994; Pascanu et al. 2013).

    python training/vanishing_gradients.py --mnist data/mnist --out runs/vanishing_gradients
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captioner.flags import OneLineParser, options_parser
from captioner.options import AT_LEAST_ONE, option
from captioner.progress import Progress
from training.figure_tools import NOT_HUGE, StudyOptions, initialise, run_study, train
from training.mnist import load_mnist
from training.plots import BLUE, FAINT, GREEN, ORANGE, STYLE, new_figure
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
class VanishingOptions(StudyOptions):
    out: Path = option(Path("runs", NAME), f"where {NAME}.png and {NAME}.json go", metavar="FOLDER")
    depth: int = option(10, "hidden layers of the deep networks", within=AT_LEAST_ONE)
    width: int = option(64, "units of each of them", within=AT_LEAST_ONE)
    updates: int = option(
        600, "of each deep network, by plain gradient descent", within=AT_LEAST_ONE
    )
    learning_rate: float = option(0.3, "of the deep networks", within=NOT_HUGE)
    clip_norm: float = option(
        1.0, "norm to which gradients are clipped, in the second row", within=NOT_HUGE
    )
    batch_size: int = option(64, "images per update", within=AT_LEAST_ONE)
    hidden_size: int = option(64, "units of the RNN and the LSTM", within=AT_LEAST_ONE)
    steps: int = option(112, "in which they read an image", within=AT_LEAST_ONE)
    sequence_updates: int = option(300, "of the RNN and the LSTM, by Adam", within=AT_LEAST_ONE)
    mnist: Path = option(Path("data", "mnist"), "folder that holds MNIST/raw", metavar="FOLDER")
    download: bool = option(False, "fetch MNIST if it is not there")

    def contradictions(self) -> Iterable[str]:
        if PIXELS % self.steps:
            yield (
                f"--steps is {self.steps}; it must divide the {PIXELS} pixels of an image: "
                "28, 56, 112, 196, 392 or 784, for example"
            )


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
    options: VanishingOptions, activation: str, generator: torch.Generator
) -> nn.Sequential:
    """Return a network with the initial weights that suit its activation, and zero biases."""
    layers: list[nn.Module] = []
    sizes = [PIXELS, *[options.width] * options.depth]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    layers.append(nn.Linear(options.width, CLASSES))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            if activation == "ReLU":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def train_deep(
    options: VanishingOptions, images: Images, activation: str, *, clips: bool, progress: Progress
) -> dict[str, Any]:
    """Train one deep network, and return its loss and its gradient norms over the updates.

    The norms are those of each layer's weights as the update uses them, so after clipping. They
    and the losses are means over equal spans of updates. A network whose loss is no longer a
    number stops there, and has shorter lists.
    """
    network = deep_network(options, activation, derived_generator(options.seed, activation))
    optimiser = torch.optim.SGD(network.parameters(), lr=options.learning_rate)
    weights = [layer.weight for layer in network if isinstance(layer, nn.Linear)]
    order = derived_generator(options.seed, "batches")
    span = math.ceil(options.updates / POINTS)
    sums = torch.zeros(len(weights) + 1)
    found: dict[str, Any] = {"updates": [], "loss": [], "norms": []}
    for update in range(1, options.updates + 1):
        pixels, labels = images.batch(options.batch_size, order)
        loss = nn.functional.cross_entropy(network((pixels - MEAN) / DEVIATION), labels)
        optimiser.zero_grad()
        loss.backward()
        if clips:
            nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
        norms = torch.stack([weight.grad.norm() for weight in weights if weight.grad is not None])
        sums += torch.cat([loss.detach()[None], norms])
        if not sums.isfinite().all():
            break
        if update % span == 0 or update == options.updates:
            means = (sums / ((update - 1) % span + 1)).tolist()
            found["updates"].append(update)
            found["loss"].append(means[0])
            found["norms"].append(means[1:])
            sums.zero_()
        optimiser.step()
        progress.advance(loss=loss.item())
    return found


class Reader(nn.Module):
    """An RNN or an LSTM that reads an image in pieces and names the digit at the end."""

    def __init__(self, options: VanishingOptions, kind: str, generator: torch.Generator) -> None:
        super().__init__()
        make = {"RNN": nn.RNNCell, "LSTM": nn.LSTMCell}[kind]
        self.steps = options.steps
        self.cell: nn.RNNCell | nn.LSTMCell = make(PIXELS // options.steps, options.hidden_size)
        self.head = nn.Linear(options.hidden_size, CLASSES)
        initialise(self, options.hidden_size, generator)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the state after each step: c_t of an LSTM, h_t of an RNN."""
        state: Any = None
        states = []
        for piece in pixels.view(len(pixels), self.steps, -1).unbind(dim=1):
            state = self.cell(piece, state)
            states.append(state if isinstance(state, Tensor) else state[1])
        return self.head(state if isinstance(state, Tensor) else state[0]), states


def train_reader(
    options: VanishingOptions, images: Images, kind: str, progress: Progress
) -> list[dict[str, Any]]:
    """Train an RNN or an LSTM; return the gradient by time lag before, during and after.

    Entry k of `norms` is the norm of the derivative of the loss, which reads the last hidden
    state only, with respect to the state k steps earlier: h of an RNN, c of an LSTM (by every
    way on from c, its own step's h included).
    """
    reader = Reader(options, kind, derived_generator(options.seed, kind))
    order = derived_generator(options.seed, "batches")
    held_out = images.batch(options.batch_size, derived_generator(options.seed, "held out"))

    def next_loss() -> Tensor:
        pixels, labels = images.batch(options.batch_size, order)
        return nn.functional.cross_entropy(reader(pixels)[0], labels)

    snapshots = []
    updates, clip_norm = options.sequence_updates, options.clip_norm
    for update in train(
        reader, next_loss, progress, updates, SNAPSHOTS - 1, SEQUENCE_RATE, clip_norm
    ):
        logits, states = reader(held_out[0])
        loss = nn.functional.cross_entropy(logits, held_out[1])
        grads = torch.autograd.grad(loss, states)
        norms = [float(grad.norm()) for grad in reversed(grads)]
        snapshots.append({"update": update, "loss": loss.item(), "norms": norms})
    return snapshots


def draw(options: VanishingOptions, figures: dict[str, Any]) -> "Figure":
    """Draw the norms per layer without and with clipping, then those by time lag, and losses."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    with matplotlib.rc_context(STYLE):
        figure = new_figure(11.5, 10.2)
        axes = figure.subplots(3, 3)
        layers = options.depth + 1
        clipping = ((False, ""), (True, f", clipped to a norm of {options.clip_norm:g}"))
        whole = matplotlib.colormaps["viridis"]  # its brightest end is too pale for a line
        colours = ListedColormap([whole(0.93 * n / options.depth) for n in range(layers)])
        for row, (clips, words) in enumerate(clipping):
            axes[row, 0].set_ylabel("norm of the gradient")
            for place, activation in zip(axes[row], ACTIVATIONS, strict=True):
                found = figures["deep"][_key(activation, clips)]
                for layer, norms in enumerate(zip(*found["norms"], strict=True)):
                    place.semilogy(found["updates"], norms, color=colours(layer), linewidth=1.4)
                place.set(title=f"{activation}{words}", xlabel="updates")
                place.sharey(axes[0, 0])
        bounds = [number + 0.5 for number in range(layers + 1)]
        shown = ScalarMappable(BoundaryNorm(bounds, layers), colours)
        bar = figure.colorbar(shown, ax=axes[:2, :], aspect=50, pad=0.01)
        bar.set_label(f"layer: 1 at the input, {layers} at the output")
        bar.set_ticks([1, layers])
        axes[2, 0].set_ylabel("norm of the gradient")
        for place, kind, state in ((axes[2, 0], "RNN", "h"), (axes[2, 1], "LSTM", "c")):
            snapshots = figures["sequences"][kind]
            shades = matplotlib.colormaps["cividis"].resampled(len(snapshots) + 1)
            for number, snapshot in enumerate(snapshots):
                seen = [norm or math.nan for norm in snapshot["norms"]]
                label = f"update {snapshot['update']:,}"
                place.semilogy(seen, color=shades(number), label=label)
            place.set(title=f"{kind}, with respect to its {state}", xlabel="time lag / steps")
        axes[2, 1].sharey(axes[2, 0])
        axes[2, 0].set_ylim(bottom=_LEAST_NORM)
        axes[2, 1].legend(loc="lower right")
        _draw_losses(axes[2, 2], figures["deep"])
        return figure


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


def main(argv: Sequence[str] | None = None) -> int:
    """Compute, write and draw what the command line asks for; return the exit status."""
    return run_study(NAME, build_parser(), VanishingOptions, compute, draw, argv)


def compute(options: VanishingOptions, images: Images | None = None) -> dict[str, Any]:
    """Return the figures over depth and over time, with their progress on standard error."""
    if images is None:
        pixels, labels = load_mnist(options.mnist, download=options.download)
        images = Images(pixels.flatten(1), labels)
    deep, total = {}, 2 * len(ACTIVATIONS) * options.updates
    with Progress(total, "deep networks", unit="updates") as progress:
        for activation in ACTIVATIONS:
            for clips in (False, True):
                deep[_key(activation, clips)] = train_deep(
                    options, images, activation, clips=clips, progress=progress
                )
    with Progress(2 * options.sequence_updates, "RNN and LSTM", unit="updates") as progress:
        kinds = ("RNN", "LSTM")
        sequences = {kind: train_reader(options, images, kind, progress) for kind in kinds}
    return {"deep": deep, "sequences": sequences}


def build_parser() -> OneLineParser:
    """Return the parser of this script's command line."""
    return options_parser(
        VanishingOptions,
        prog=f"{NAME}.py",
        description="Draw how gradients vanish over depth and over time.",
    )


if __name__ == "__main__":
    sys.exit(main())
