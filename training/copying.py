"""Train a recurrent network to copy digits over a long delay.

python training/copying.py --delay 100 --p 0.25 --seed 0
python training/copying.py --delay 100 --p 0.25 --transfer 200 400 500 1000 2000 5000
python training/copying.py --resume runs/NAME
"""

import sys
from collections.abc import Sequence

from training.benchmarks.command import Script, run_script
from training.benchmarks.config import Experiment
from training.benchmarks.copying import CopyingConfig, CopyingTask


def _run_name(experiment: Experiment) -> str:
    config, p = experiment.config, getattr(experiment.method, "p", None)
    assert isinstance(config, CopyingConfig)
    with_p = "" if p is None else f"-p{p:g}"
    return f"copying{config.delay}-{config.model}{with_p}-seed{config.seed}"


SCRIPT = Script(
    name="copying.py",
    description="Train a recurrent network to copy digits over a long delay.",
    config=CopyingConfig,
    task=CopyingTask,
    run_name=_run_name,
)


def main(words: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    return run_script(SCRIPT, words)


if __name__ == "__main__":
    sys.exit(main())
