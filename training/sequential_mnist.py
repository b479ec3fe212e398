"""Train a recurrent network to name digits that it reads pixel by pixel.

python training/sequential_mnist.py --mnist DIR --p 0.25
python training/sequential_mnist.py --mnist DIR --p 0.25 --permute
python training/sequential_mnist.py --resume runs/NAME
"""

import sys
from collections.abc import Sequence

from training.benchmarks.command import Script, run_script
from training.benchmarks.config import Experiment
from training.benchmarks.pixels import PixelsConfig, PixelsTask


def _run_name(experiment: Experiment) -> str:
    config, p = experiment.config, getattr(experiment.method, "p", None)
    assert isinstance(config, PixelsConfig)
    name = "pmnist" if config.permutes else "mnist"
    with_p = "" if p is None else f"-p{p:g}"
    return f"{name}-{config.model}{with_p}-seed{config.seed}"


SCRIPT = Script(
    name="sequential_mnist.py",
    description="Train a recurrent network to name digits that it reads pixel by pixel.",
    config=PixelsConfig,
    task=PixelsTask,
    run_name=_run_name,
)


def main(words: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    return run_script(SCRIPT, words)


if __name__ == "__main__":
    sys.exit(main())
