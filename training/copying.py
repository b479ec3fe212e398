"""Train a recurrent network to copy digits over a long delay.

python training/copying.py --delay 100 --p 0.25 --seed 0
python training/copying.py --delay 100 --p 0.25 --transfer 200 400 500 1000 2000 5000
python training/copying.py --resume runs/NAME
"""

import sys

from training.benchmarks.benchmark import Script
from training.benchmarks.copying import CopyingConfig, CopyingTask

SCRIPT = Script(
    name="copying.py",
    description="Train a recurrent network to copy digits over a long delay.",
    config=CopyingConfig,
    task=CopyingTask,
    data_name=lambda config: f"copying{config.delay}",
)
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
