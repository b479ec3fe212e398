"""Draw what a model says of the example photographs, all of them, into one picture.

python scripts/draw_examples.py --out examples.png
python scripts/draw_examples.py --out docs/pictures/examples.jpg    # the picture of the README
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

import captioner
from captioner.errors import OptionError
from captioner.files import write_atomically
from captioner.flags import options_parser
from captioner.options import Options, option
from captioner.pictures import Sample, draw_samples
from captioner.program import run_program

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ROOT / "docs" / "pictures" / "examples"  # credits.md beside it names their authors
_JPEG_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class DrawOptions(Options):
    out: Path = option(MISSING, "the picture, .png or .jpg", metavar="FILE")
    checkpoint: Path | None = option(
        None, "folder of a model; the one that comes with captioner if not given", metavar="DIR"
    )
    photographs: Path = option(PHOTOGRAPHS, "folder of JPEG photographs", metavar="DIR")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw as the command line says, and return the exit status."""
    return run_program("draw_examples.py", lambda: draw(parse(argv)))


def parse(argv: Sequence[str] | None) -> DrawOptions:
    parser = options_parser(
        DrawOptions,
        prog="draw_examples.py",
        description="Draw what a model says of photographs, all of them, into one picture.",
    )
    return DrawOptions.from_json(vars(parser.parse_args(argv)))


def draw(options: DrawOptions) -> None:
    """Caption the photographs, print the captions, and draw them.

    Raises:
        OptionError: there is no photograph, or the picture is to be of another format.
    """
    if options.out.suffix.lower() not in (".png", ".jpg"):
        raise OptionError(f"--out is {options.out}; give a name ending in .png or .jpg")
    paths = sorted(options.photographs.glob("*.jpg"))
    if not paths:
        raise OptionError(
            f"--photographs is {options.photographs}, which holds no .jpg; name another"
        )
    captions = captioner.load(options.checkpoint).caption(paths)
    for path, caption in zip(paths, captions, strict=True):
        print(f"{path.stem:18} {caption.text}")
    samples = [
        Sample(image_path=path, generated=caption.text)
        for path, caption in zip(paths, captions, strict=True)
    ]
    if options.out.suffix.lower() == ".png":
        draw_samples(samples, options.out)
    else:
        _draw_jpeg(samples, options.out)
    print(f"drawn: {options.out}")


def _draw_jpeg(samples: Sequence[Sample], out: Path) -> None:
    small = BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn.png"
        draw_samples(samples, drawn)
        with Image.open(drawn) as picture:
            picture.convert("RGB").save(small, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    write_atomically(out, small.getvalue())


if __name__ == "__main__":
    sys.exit(main())
