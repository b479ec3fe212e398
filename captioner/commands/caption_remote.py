"""`captioner caption --server URL`: the same lines and JSON, with the captions of a service."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from captioner.client import Answer, CaptionClient
from captioner.commands.output import Results, Screen, numbered
from captioner.errors import ImageError
from captioner.progress import Progress

SKIPPED = 1  # exit status
CONCURRENCY = 8  # as many as a service puts into one batch
KEY_VARIABLE = "CAPTIONER_API_KEY"  # not an option: every user of a machine sees its command lines


def caption_by_service(
    arguments: argparse.Namespace,
    photographs: Sequence[Path],
    problems: Mapping[str, ImageError],
) -> int:
    """Write the captions of all photographs and return the exit status.

    Raises:
        ServiceError: there is no service there, or it refuses whatever it is sent.
        OptionError: the address or the key cannot be one.
    """
    is_long = len(photographs) > (1 if sys.stderr.isatty() else CONCURRENCY)
    progress = Progress(len(photographs), "captioning", unit="photographs", enabled=is_long)
    screen = Screen(hold=is_long and sys.stderr.isatty())
    written = Results(screen, as_json=arguments.json, with_log_prob=arguments.num_captions > 1)
    try:
        with CaptionClient(arguments.server, os.environ.get(KEY_VARIABLE)) as client:
            for name, problem in problems.items():
                written.skip(name, problem)
            outcomes = client.caption_each(
                photographs,
                concurrency=CONCURRENCY,
                beam_size=arguments.beam_size,
                num_captions=arguments.num_captions,
                max_length=arguments.max_length,
                attention=arguments.attention is not None,
            )
            with progress:
                for number, (path, outcome) in enumerate(
                    zip(photographs, outcomes, strict=True), 1
                ):
                    if isinstance(outcome, Answer):
                        drawn = None
                        if arguments.attention is not None:
                            drawn = numbered(arguments.attention, number, len(photographs))
                            _draw(path, outcome, drawn)
                        written.add(str(path), outcome.captions, drawn)
                    else:
                        written.skip(str(path), outcome)
                    progress.advance()
    finally:
        screen.release()
    if arguments.json:
        print(json.dumps(written.entries, ensure_ascii=False, indent=1))
    return SKIPPED if written.is_any_skipped else 0


def _draw(path: Path, answer: Answer, out: Path) -> None:
    from captioner.data.images import open_image
    from captioner.pictures import draw_attention

    image = open_image(path)
    left, top, right, bottom = answer.seen or (0.0, 0.0, 1.0, 1.0)
    width, height = image.size
    seen = (left * width, top * height, right * width, bottom * height)
    draw_attention(image, answer.captions[0], out, seen=seen)
