"""`captioner caption`: captions for photographs, folders of them and patterns.

Captions go to standard output, a line each or as JSON; progress, skipped photographs and what was
written go to standard error. A broken photograph costs the others nothing.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.checkpoint_folders import newest_checkpoint
from captioner.commands.image_paths import find_photographs
from captioner.commands.output import Results, Screen, numbered
from captioner.errors import ImageError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from captioner.captioner import Caption, Captioner
    from captioner.progress import Progress
    from captioner.search_config import SearchConfig

SKIPPED = 1  # exit status
BATCH_SIZE = 16
OPENING_THREADS = 4

DESCRIPTION = """\
Print a line for every photograph: its path, a tab, its caption. With --num-captions there is a
line for each caption, the best first, and after another tab its natural log-probability.
"""
EXAMPLES = """\
examples:
  captioner caption dog.jpg --checkpoint runs/flickr8k/best
  captioner caption holiday/ 'more/**/*.jpg' --json > captions.json
  captioner caption dog.jpg --attention attention.png
  captioner caption holiday/ --server http://localhost:8000
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "caption",
        help="caption photographs",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "photographs",
        nargs="+",
        metavar="PHOTO",
        help="an image, a folder (the images directly in it) or a quoted pattern like 'x/**/*'",
    )
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="folder of a checkpoint or of a run (default: the newest runs/*/best)",
    )
    add(
        "--server",
        metavar="URL",
        help="ask the caption service there; its key, if it wants one, is in CAPTIONER_API_KEY",
    )
    add("--beam-size", type=int, metavar="N", help="width of the search, 1 is greedy (3)")
    add("--num-captions", type=int, default=1, metavar="K", help="captions per photograph (1)")
    add("--max-length", type=int, default=20, metavar="N", help="most words of a caption (20)")
    add("--json", action="store_true", help="print a JSON list instead of lines")
    add(
        "--attention",
        type=Path,
        metavar="OUT.png",
        help="draw where each word looked; several photographs become OUT-1.png, OUT-2.png …",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (auto)")
    add("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help=f"({BATCH_SIZE})")
    add("--threads", type=int, metavar="N", help="processor threads (all cores)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    photographs, problems = find_photographs(arguments.photographs)
    if not photographs:
        raise ImageError(f"no photograph to caption: {'; '.join(map(str, problems.values()))}")
    if arguments.server is not None:
        from captioner.commands.caption_remote import caption_by_service

        return caption_by_service(arguments, photographs, problems)
    checkpoint = arguments.checkpoint
    if checkpoint is None:
        checkpoint = newest_checkpoint(Path("runs"))
        print(f"using {checkpoint}", file=sys.stderr)

    import torch

    from captioner.allocator import keep_freed_memory
    from captioner.captioner import load
    from captioner.progress import Progress

    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    config = _search_config(arguments)
    captioner = load(checkpoint, arguments.device)

    # Plain lines of progress would be more to read than the captions of a single batch.
    is_long = len(photographs) > (1 if sys.stderr.isatty() else arguments.batch_size)
    progress = Progress(len(photographs), "captioning", unit="photographs", enabled=is_long)
    screen = Screen(hold=is_long and sys.stderr.isatty())
    written = Results(screen, as_json=arguments.json, with_log_prob=arguments.num_captions > 1)
    try:
        for name, problem in problems.items():
            written.skip(name, problem)
        _caption_all(captioner, photographs, config, arguments, written, progress)
    finally:
        screen.release()
    if arguments.json:
        print(json.dumps(written.entries, ensure_ascii=False, indent=1))
    return SKIPPED if written.is_any_skipped else 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise for what cannot work before anything is loaded."""
    if arguments.batch_size < 1:
        raise OptionError(f"--batch-size is {arguments.batch_size}; give at least 1")
    if arguments.threads is not None and arguments.threads < 1:
        raise OptionError(f"--threads is {arguments.threads}; give at least 1")
    if arguments.server is not None:
        given = {
            "--checkpoint": arguments.checkpoint is not None,
            "--device": arguments.device != "auto",
            "--batch-size": arguments.batch_size != BATCH_SIZE,
            "--threads": arguments.threads is not None,
        }
        if ours := [option for option, is_given in given.items() if is_given]:
            raise OptionError(
                f"{', '.join(ours)} with --server: the photographs are captioned there, "
                "as that service was started; leave it out"
            )
    if arguments.attention is not None and arguments.attention.suffix.lower() != ".png":
        raise OptionError(f"--attention is {arguments.attention}; give a name ending in .png")


def _search_config(arguments: argparse.Namespace) -> "SearchConfig":
    from captioner.search_config import SearchConfig

    count, beam_size = arguments.num_captions, arguments.beam_size
    if beam_size is None:
        beam_size = max(count, SearchConfig.beam_size)
    return SearchConfig(beam_size=beam_size, num_captions=count, max_length=arguments.max_length)


def _caption_all(
    captioner: "Captioner",
    photographs: Sequence[Path],
    config: "SearchConfig",
    arguments: argparse.Namespace,
    written: Results,
    progress: "Progress",
) -> None:
    size, total = arguments.batch_size, len(photographs)
    read = captioner.preprocessing.read
    with progress, ThreadPoolExecutor(OPENING_THREADS) as threads:
        for start in range(0, total, size):
            batch = photographs[start : start + size]
            opened = list(threads.map(lambda path: _open(path, read), batch))
            readable = [pixels for pixels in opened if not isinstance(pixels, ImageError)]
            found = iter(captioner.captions_of_pixels(readable, config))
            for number, (path, pixels) in enumerate(zip(batch, opened, strict=True), start + 1):
                if isinstance(pixels, ImageError):
                    written.skip(str(path), pixels)
                    continue
                captions = next(found)
                drawn = None
                if arguments.attention is not None:
                    drawn = numbered(arguments.attention, number, total)
                    _draw(captioner, path, captions[0], drawn)
                written.add(str(path), captions, drawn)
            progress.advance(len(batch))


def _open(path: Path, read: "Callable[[Path], Tensor]") -> "Tensor | ImageError":
    try:
        return read(path)
    except ImageError as problem:
        return problem


def _draw(captioner: "Captioner", path: Path, caption: "Caption", out: Path) -> None:
    from captioner.data.images import open_image
    from captioner.pictures import draw_attention, seen_box

    image = open_image(path)
    seen = seen_box(captioner.preprocessing, image.size)
    draw_attention(image, caption, out, seen=seen)
