"""Train a recurrent network to name digits that it reads pixel by pixel.

python training/sequential_mnist.py --mnist DIR --p 0.25
python training/sequential_mnist.py --mnist DIR --p 0.25 --permute
python training/sequential_mnist.py --resume runs/NAME
"""

import sys
from collections.abc import Sequence

from training.benchmarks.pixels import PixelsConfig, PixelsTask
from training.benchmarks.script import Script, run_script

SCRIPT = Script(
    name="sequential_mnist.py",
    description="Train a recurrent network to name digits that it reads pixel by pixel.",
    config=PixelsConfig,
    task=PixelsTask,
    data_name=lambda config: "pmnist" if config.permutes else "mnist",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    return run_script(SCRIPT, argv)


if __name__ == "__main__":
    sys.exit(main())
