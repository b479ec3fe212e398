"""Train a recurrent network to tell the next word of a text.

python training/word_language_model.py --text FILE --p 0.25
python training/word_language_model.py --resume runs/NAME
"""

import sys
from pathlib import Path

from training.benchmarks.benchmark import Script
from training.benchmarks.text import TextConfig, TextTask

SCRIPT = Script(
    name="word_language_model.py",
    description="Train a recurrent network to tell the next word of a text.",
    config=TextConfig,
    task=TextTask,
    data_name=lambda config: Path(config.text or "").stem,
)
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
