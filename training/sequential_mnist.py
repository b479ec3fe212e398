"""Train a recurrent network to name digits that it reads pixel by pixel.

python training/sequential_mnist.py --mnist DIR --p 0.25
python training/sequential_mnist.py --mnist DIR --p 0.25 --permute
python training/sequential_mnist.py --resume runs/NAME
"""

import sys

from training.benchmarks.benchmark import Script
from training.benchmarks.pixels import PixelsConfig, PixelsTask

SCRIPT = Script(
    name="sequential_mnist.py",
    description="Train a recurrent network to name digits that it reads pixel by pixel.",
    config=PixelsConfig,
    task=PixelsTask,
    data_name=lambda config: "pmnist" if config.permutes else "mnist",
)
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
