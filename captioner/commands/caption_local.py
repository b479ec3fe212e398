"""`captioner caption` with a model on this machine."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from captioner.allocator import keep_freed_memory
from captioner.captioner import Captioner, load
from captioner.checkpoint_folders import shipped_model
from captioner.commands.caption import Captioned, ModelOptions, Outcome
from captioner.errors import ImageError
from captioner.pictures import seen_box
from captioner.search_config import SearchConfig

OPENING_THREADS = 4


def caption_here(
    photographs: Sequence[Path], config: SearchConfig, options: ModelOptions
) -> Iterator[Outcome]:
    """Load the model, and return an iterator over what becomes of each photograph.

    Raises:
        OptionError: there is no such device here, or no such engine.
        ToolError: the model needs packages that are not installed.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    checkpoint = options.checkpoint
    if checkpoint is None:
        checkpoint = shipped_model()
        print(
            "using the model that comes with captioner; --checkpoint names another", file=sys.stderr
        )
    keep_freed_memory()
    captioner = load(checkpoint, options.device, options.engine, options.threads)
    return _outcomes(captioner, photographs, config, options.batch_size)


def _outcomes(
    captioner: Captioner, photographs: Sequence[Path], config: SearchConfig, batch_size: int
) -> Iterator[Outcome]:
    preprocessing = captioner.preprocessing
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        for start in range(0, len(photographs), batch_size):
            batch = photographs[start : start + batch_size]
            opened = list(threads.map(partial(_open, preprocessing.read), batch))
            readable = [pixels for pixels in opened if not isinstance(pixels, ImageError)]
            found = iter(captioner.captions_of_pixels(readable, config))
            for pixels in opened:
                if isinstance(pixels, ImageError):
                    yield pixels
                else:
                    captions = next(found)
                    seen = partial(seen_box, preprocessing)
                    yield Captioned(captions, seen, captions[0].attributes)


def _open(read: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | ImageError:
    try:
        return read(path)
    except ImageError as problem:
        return problem
