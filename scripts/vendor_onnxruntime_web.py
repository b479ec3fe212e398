"""Fetch what captions in a browser are computed with into a folder, for machines without npm.

python scripts/vendor_onnxruntime_web.py DIR
CAPTIONER_ONNXRUNTIME_WEB=DIR captioner export --web site
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner.errors import CaptionerError
from captioner.program import BAD_INPUT
from serving.onnxruntime_web import fetch


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the files and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write")
    arguments = parser.parse_args(argv)
    try:
        if arguments.folder.exists() and any(arguments.folder.iterdir()):
            parser.error(f"{arguments.folder} is not empty; name a new folder")
        fetch(arguments.folder)
    except (CaptionerError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
