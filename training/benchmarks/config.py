"""The options of every benchmark, which are joined with those of the method that `--model` names.

A task subclasses `BenchmarkConfig` with flags and defaults of its own. Flags, keys of
`config.json` and attributes have the same names.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, NOT_NEGATIVE, option
from training.composition import Choices, ComposedOptions
from training.methods import load_method, method_names


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ComposedOptions):
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
        "train the last N epochs without detaching; the authors' copying.py does so for the last "
        "39, their pixelmnist.py never",
        within=NOT_NEGATIVE,
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

    @classmethod
    def choices(cls) -> Choices:
        return {"model": {name: load_method(name).options for name in method_names()}}

    def planned_by_epochs(self) -> Iterable[str]:
        if self.anneal_epochs:
            yield f"the end of detaching (--anneal-epochs {self.anneal_epochs})"

    def contradictions(self) -> Iterable[str]:
        shares = [getattr(self, name, None) for name in ("p", "cell_p")]
        if self.anneal_epochs and shares == [None, None]:
            yield (
                f"--anneal-epochs is {self.anneal_epochs}, but {self.model} detaches nothing; "
                "leave it 0"
            )
        if any(shares) and self.anneal_epochs >= self.epochs:
            yield (
                f"--anneal-epochs is {self.anneal_epochs} of {self.epochs} epochs, so nothing "
                "would ever be detached; leave at least one epoch before them"
            )
