"""`captioner caption`: captions for photographs, folders of them and patterns.

Captions go to standard output, a line each or as JSON. Progress, skipped photographs and the names
of written files go to standard error. A broken photograph does not affect the others.
"""

import argparse
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.image_paths import find_photographs
from captioner.commands.output import CaptionOutput, HeldLines
from captioner.errors import CaptionerError, ImageError, OptionError
from captioner.files import refuse_to_overwrite
from captioner.flags import add_flags
from captioner.options import AT_LEAST_ONE, Options, flag, option
from captioner.search_config import SearchConfig, SearchFlags, separate_words

if TYPE_CHECKING:
    from captioner.captioner import Caption
    from captioner.client import ServedCaption
    from captioner.pictures import Box

SKIPPED = 1  # exit status
CONCURRENCY = 8  # as many as a service puts into one batch
KEY_VARIABLE = "CAPTIONER_API_KEY"  # not an option: every user of a machine sees its command lines

DESCRIPTION = """\
Print a line for every photograph: its path, a tab, its caption. With --num-captions there is a
line for each caption, the best first, and after another tab its natural log-probability.
"""
EXAMPLES = """\
examples:
  captioner caption dog.jpg
  captioner caption dog.jpg --checkpoint runs/flickr8k/best
  captioner caption holiday/ 'more/**/*.jpg' --json > captions.json
  captioner caption dog.jpg --attention attention.png
  captioner caption holiday/ --server http://localhost:8000
"""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The options of a model that runs here; none of them goes with `--server`."""

    checkpoint: Path | None = option(
        None,
        "folder of a checkpoint, of a run or of an exported model; the model that comes with "
        "captioner where it is not given",
        metavar="DIR",
    )
    engine: str | None = option(
        None,
        "what runs the model; torch for a checkpoint, onnxruntime for an exported one",
        metavar="NAME",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1 …", metavar="DEVICE")
    batch_size: int = option(16, "photographs captioned together", within=AT_LEAST_ONE)
    threads: int | None = option(
        None, "processor threads; all cores where it is not given", within=AT_LEAST_ONE
    )


@dataclass(frozen=True)
class Captioned:
    """The captions of one photograph, and what their attention covers."""

    captions: "Sequence[Caption | ServedCaption]"
    seen: "Callable[[tuple[int, int]], Box]"  # the part of a picture of that size, in pixels
    attributes: Sequence[tuple[str, float]]  # what was found in it, and how probably


Outcome = Captioned | CaptionerError


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
        nargs="*",
        metavar="PHOTO",
        help="an image, a folder (the images directly in it) or a quoted pattern like 'x/**/*'",
    )
    add(
        "--server",
        metavar="URL",
        help="ask the caption service there; its key, if it wants one, is in CAPTIONER_API_KEY",
    )
    add("--json", action="store_true", help="print a JSON list instead of lines")
    add(
        "--attention",
        type=Path,
        metavar="OUT.png",
        help="draw where each word looked; several photographs become OUT-1.png, OUT-2.png …",
    )
    add_flags(parser.add_argument_group("the search"), SearchConfig)
    add_flags(parser.add_argument_group("the model, without --server"), ModelOptions)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.photographs:
        arguments.photographs = _behind_words(arguments)
    search, model = _given(arguments, SearchConfig), _given(arguments, ModelOptions)
    options = ModelOptions(**model)
    for name in search.keys() & {"include", "exclude"}:
        search[name] = separate_words(flag(name), search[name])
    if search.get("sample") and "beam_size" in search:
        print("note: --beam-size counts for nothing with --sample, which draws", file=sys.stderr)
    if arguments.attention is not None and arguments.attention.suffix.lower() != ".png":
        raise OptionError(f"--attention is {arguments.attention}; give a name ending in .png")
    if arguments.server is not None and (ours := [*model, *search.keys() & {"length_power"}]):
        raise OptionError(
            f"{', '.join(map(flag, ours))} with --server: the photographs are captioned there, "
            "as that service was started; leave it out"
        )
    photographs, problems = find_photographs(arguments.photographs)
    if not photographs:
        raise ImageError(f"no photograph to caption: {'; '.join(map(str, problems.values()))}")
    drawings = _drawings(arguments.attention, len(photographs))
    refuse_to_overwrite("--attention", filter(None, drawings), photographs)
    if arguments.server is None:
        from captioner.commands.caption_local import caption_here

        outcomes = caption_here(photographs, SearchFlags.for_captions(**search), options)
    else:
        asked = {**search, "attention": arguments.attention is not None}
        outcomes = _caption_by_service(arguments.server, photographs, asked)

    # Plain lines of progress would be more to read than the captions of a single batch.
    is_long = len(photographs) > (1 if sys.stderr.isatty() else options.batch_size)
    output = CaptionOutput(
        HeldLines(hold=is_long and sys.stderr.isatty()),
        as_json=arguments.json,
        with_log_prob=search.get("num_captions", 1) > 1,
    )
    try:
        for name, problem in problems.items():
            output.skip(name, problem)
        _write(photographs, outcomes, output, drawings, show_progress=is_long)
    finally:  # also where it is interrupted: what was captioned so far is not lost
        output.finish()
    return SKIPPED if output.is_any_skipped else 0


def _behind_words(arguments: argparse.Namespace) -> list[str]:
    """Take the photographs that stand behind the words of a flag, out of the words.

    `--include dog dog.jpg` reads both as words.

    Raises:
        OptionError: there are none.
    """
    for name in ("include", "exclude"):
        words: list[str] = getattr(arguments, name) or []
        end = len(words)
        while end > 1 and (glob.has_magic(words[end - 1]) or Path(words[end - 1]).exists()):
            end -= 1
        if photographs := words[end:]:
            del words[end:]
            return photographs
    taken = [
        f"{flag(name)} takes {', '.join(map(repr, words))} for words"
        for name in ("include", "exclude")
        if (words := getattr(arguments, name))
    ]
    because = f": {'; '.join(taken)}" if taken else ""
    where = " that is there, before the flag" if taken else ""
    raise OptionError(
        f"there is no PHOTO{because}; name an image, a folder or a quoted pattern{where}"
    )


def _given(arguments: argparse.Namespace, options: type[Options]) -> dict[str, Any]:
    """Return the values that the command line gave for a group of options."""
    values = {item.name: getattr(arguments, item.name) for item in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def _caption_by_service(
    url: str, photographs: Sequence[Path], asked: Mapping[str, Any]
) -> Iterator[Outcome]:
    """Yield what becomes of each photograph."""
    from captioner.client import CaptionClient

    with CaptionClient(url, os.environ.get(KEY_VARIABLE)) as client:
        for outcome in client.caption_each(photographs, concurrency=CONCURRENCY, **asked):
            if isinstance(outcome, CaptionerError):
                yield outcome
            else:
                seen = outcome.seen or (0.0, 0.0, 1.0, 1.0)
                yield Captioned(outcome.captions, partial(_in_pixels, seen), outcome.attributes)


def _in_pixels(seen: Sequence[float], size: tuple[int, int]) -> "Box":
    left, top, right, bottom = seen
    width, height = size
    return (left * width, top * height, right * width, bottom * height)


def _drawings(attention: Path | None, total: int) -> Sequence[Path | None]:
    """Return where the attention of each photograph is drawn, if it is to be."""
    if attention is None or total == 1:
        return [attention] * total
    digits = len(str(total))
    return [
        attention.with_stem(f"{attention.stem}-{number:0{digits}d}")
        for number in range(1, total + 1)
    ]


def _write(
    photographs: Sequence[Path],
    outcomes: Iterable[Outcome],
    output: CaptionOutput,
    drawings: Sequence[Path | None],
    *,
    show_progress: bool,
) -> None:
    from captioner.progress import Progress

    total = len(photographs)
    with Progress(total, "captioning", unit="photographs", enabled=show_progress) as progress:
        for path, outcome, drawn in zip(photographs, outcomes, drawings, strict=True):
            if isinstance(outcome, CaptionerError):
                output.skip(str(path), outcome)
            else:
                if drawn is not None:
                    _draw(path, outcome, drawn)
                output.add(str(path), outcome.captions, outcome.attributes, drawn)
            progress.advance()


def _draw(path: Path, outcome: Captioned, out: Path) -> None:
    from captioner.data.images import open_image
    from captioner.pictures import draw_attention

    image = open_image(path)
    draw_attention(image, outcome.captions[0], out, seen=outcome.seen(image.size))
