"""`python -m captioner` does what the command `captioner` does."""

import sys

from captioner.cli import main

sys.exit(main())
