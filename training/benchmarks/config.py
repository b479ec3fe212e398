"""What every run of a benchmark chooses, and how it is kept together with its method's options.

A task subclasses `BenchmarkConfig` with flags and defaults of its own. Flags, keys of
`config.json` and attributes have the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from captioner.errors import OptionError
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, NOT_NEGATIVE, Options, option
from training.methods import MethodOptions, load_method, method_names


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Options):
    model: str = option("lstm", "the recurrent method", choices=method_names())
    hidden_size: int = option(128, "units of the recurrent layer", within=AT_LEAST_ONE)

    # Optimisation
    lr: float = option(1e-3, "learning rate of Adam", within=ABOVE_ZERO)
    clip: float = option(
        1.0, "largest norm of all gradients together; 0 is off", within=NOT_NEGATIVE
    )
    batch_size: int = option(100, "sequences in a batch", within=AT_LEAST_ONE)
    updates: int | None = option(
        None, "updates in an epoch; default: the task's own", within=AT_LEAST_ONE
    )
    epochs: int = option(600, "epochs to train", within=AT_LEAST_ONE, changeable=True)
    anneal_epochs: int = option(
        0,
        "train the last N epochs without detaching; the paper's programs take 40 unless told",
        within=NOT_NEGATIVE,
    )
    seed: int = option(
        0, "seed of the data, the initialisation, the order and the masks", within=NOT_NEGATIVE
    )

    # When to end
    stop_at: float | None = option(
        None,
        "end as soon as two validations running reach this score; default: never",
        changeable=True,
    )
    minutes: float | None = option(
        None,
        "end when the run has taken so long, over all its processes; default: never",
        within=ABOVE_ZERO,
        changeable=True,
    )

    # The machine
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", metavar="NAME", changeable=True)
    threads: int | None = option(
        None, "threads of the CPU; default: PyTorch's", within=AT_LEAST_ONE, changeable=True
    )
    save_every: float = option(
        300.0,
        "seconds between saves of last/, beside those at validations",
        within=NOT_NEGATIVE,
        changeable=True,
    )


@dataclass(frozen=True)
class Experiment:
    """A run's configuration: of the task and the loop, and of the method."""

    config: BenchmarkConfig
    method: MethodOptions

    def __post_init__(self) -> None:
        config = self.config
        shares = [getattr(self.method, name, None) for name in ("p", "cell_p")]
        if config.anneal_epochs and shares == [None, None]:
            raise OptionError(
                f"--anneal-epochs is {config.anneal_epochs}, but {config.model} detaches nothing; "
                "leave it 0"
            )
        if any(shares) and config.anneal_epochs >= config.epochs:
            raise OptionError(
                f"--anneal-epochs is {config.anneal_epochs} of {config.epochs} epochs, so nothing "
                "would ever be detached; leave at least one epoch before them"
            )

    def to_json(self) -> dict[str, Any]:
        return {**self.config.to_json(), **self.method.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], config_type: type[BenchmarkConfig]) -> Self:
        """Return the experiment with these options; what is missing takes its default.

        Raises:
            OptionError: an option is unknown to the task and the method, or out of range.
        """
        of_config = {item.name for item in fields(config_type)}
        config = config_type.from_json(
            {name: value for name, value in values.items() if name in of_config}
        )
        method = load_method(config.model).options.from_json(
            {name: value for name, value in values.items() if name not in of_config}
        )
        return cls(config, method)
