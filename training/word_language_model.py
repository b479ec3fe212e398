"""Train a recurrent network to tell the next word of a text.

python training/word_language_model.py --text FILE --p 0.25
python training/word_language_model.py --resume runs/NAME
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from training.benchmarks.script import Script, run_script
from training.benchmarks.text import TextConfig, TextTask

SCRIPT = Script(
    name="word_language_model.py",
    description="Train a recurrent network to tell the next word of a text.",
    config=TextConfig,
    task=TextTask,
    data_name=lambda config: Path(config.text or "").stem,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says, and return the exit status."""
    return run_script(SCRIPT, argv)


if __name__ == "__main__":
    sys.exit(main())
