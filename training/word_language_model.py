"""Train a recurrent network to tell the next word of a text.

python training/word_language_model.py --text FILE --p 0.25
python training/word_language_model.py --resume runs/NAME
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.benchmarks.command import Script, run_script
from training.benchmarks.config import Experiment
from training.benchmarks.text import TextConfig, TextTask


def _run_name(experiment: Experiment) -> str:
    config, p = experiment.config, getattr(experiment.method, "p", None)
    assert isinstance(config, TextConfig)
    with_p = "" if p is None else f"-p{p:g}"
    return f"{Path(config.text or '').stem}-{config.model}{with_p}-seed{config.seed}"


SCRIPT = Script(
    name="word_language_model.py",
    description="Train a recurrent network to tell the next word of a text.",
    config=TextConfig,
    task=TextTask,
    run_name=_run_name,
)


def main(words: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    return run_script(SCRIPT, words)


if __name__ == "__main__":
    sys.exit(main())
