"""Average the weights of checkpoints that one training led to.

python scripts/average_checkpoints.py runs/A/best runs/B/best --weights 0.8 0.2 --out averaged

Checkpoints that were trained on from one another, or from the same one, mostly lie in one basin of
the loss, and the mean of their weights captions as well as the best of them or better than any of
them (Wortsman et al. 2022, "Model soups"). Encoder and decoder are averaged; everything else is
that of the first checkpoint.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded

import torch
from torch import Tensor, nn

from captioner.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioner.errors import OptionError
from captioner.flags import options_parser
from captioner.options import ABOVE_ZERO, Options, option
from captioner.program import run_program


@dataclass(frozen=True, kw_only=True)
class AverageOptions(Options):
    weights: tuple[float, ...] = option(
        (), "weight of each checkpoint, in any unit; default: the same of all", within=ABOVE_ZERO
    )
    out: Path = option(MISSING, "folder of the new checkpoint", metavar="DIR")

    def contradictions(self) -> Iterable[str]:
        if self.out.exists():
            yield f"--out is {self.out}, which exists; give another folder"


def main(argv: Sequence[str] | None = None) -> int:
    """Average as the command line says, and return the exit status."""
    return run_program("average_checkpoints.py", lambda: average(*parse(argv)))


def parse(argv: Sequence[str] | None) -> tuple[list[Path], AverageOptions]:
    parser = options_parser(
        AverageOptions,
        prog="average_checkpoints.py",
        description="Average the weights of checkpoints that one training led to.",
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    arguments = vars(parser.parse_args(argv))
    return arguments.pop("checkpoints"), AverageOptions.from_json(arguments)


def average(folders: Sequence[Path], options: AverageOptions) -> None:
    """Write the average of the checkpoints to `options.out`.

    Raises:
        OptionError: there are fewer than two, not one weight for each, or they differ in more than
            their weights.
        CheckpointError: a folder holds no checkpoint.
    """
    if len(folders) < 2:
        raise OptionError(f"there is only {folders[0]}; name at least 2 checkpoints")
    weights = options.weights or (1.0,) * len(folders)
    if len(weights) != len(folders):
        raise OptionError(
            f"--weights has {len(weights)} for {len(folders)} checkpoints; give one for each"
        )
    shares = [weight / sum(weights) for weight in weights]
    checkpoints = [load_checkpoint(folder) for folder in folders]
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if _kind(other) != _kind(first):
            raise OptionError(
                f"{other.folder} has another encoder, decoder or vocabulary than {first.folder}; "
                "average checkpoints that one training led to"
            )
    for part in ("encoder", "decoder"):
        modules: list[nn.Module] = [getattr(one, part) for one in checkpoints]
        modules[0].load_state_dict(averaged([one.state_dict() for one in modules], shares))
    summary = {**first.summary, "average_of": dict(zip(map(str, folders), shares, strict=True))}
    save_checkpoint(
        options.out,
        encoder=first.encoder,
        decoder=first.decoder,
        vocabulary=first.vocabulary,
        summary=summary,
    )
    print(f"{options.out}: the average of {len(folders)} checkpoints")


def averaged(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of each tensor; those of integers are the first's."""
    result = dict(states[0])
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            terms = (
                share * state[name].double() for share, state in zip(shares, states, strict=True)
            )
            result[name] = torch.stack(list(terms)).sum(0).to(tensor.dtype)
    return result


def _kind(checkpoint: Checkpoint) -> tuple[object, ...]:
    """Return what checkpoints have in common that can be averaged."""
    decoder, encoder = checkpoint.decoder, checkpoint.encoder
    shapes = [
        {name: tensor.shape for name, tensor in module.state_dict().items()}
        for module in (encoder, decoder)
    ]
    return decoder.name, shapes, checkpoint.vocabulary.words, encoder.preprocessing


if __name__ == "__main__":
    sys.exit(main())
