"""Train a recurrent network to copy digits over a long delay.

python training/copying.py --delay 100 --p 0.25 --seed 0
python training/copying.py --delay 100 --p 0.25 --transfer 200 400 500 1000 2000 5000
python training/copying.py --resume runs/NAME
"""

import sys
from collections.abc import Sequence

from training.benchmarks.copying import CopyingConfig, CopyingTask
from training.benchmarks.script import Script, run_script

SCRIPT = Script(
    name="copying.py",
    description="Train a recurrent network to copy digits over a long delay.",
    config=CopyingConfig,
    task=CopyingTask,
    data_name=lambda config: f"copying{config.delay}",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    return run_script(SCRIPT, argv)


if __name__ == "__main__":
    sys.exit(main())
