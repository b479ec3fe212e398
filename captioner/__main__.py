"""`python -m captioner`, the same as the command `captioner`."""

import sys

from captioner.cli import main

sys.exit(main())
