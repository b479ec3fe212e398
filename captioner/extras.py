"""Optional packages: one line that says which extra of `captioner` brings a missing one.

`pip install captioner` brings what captions photographs. What trains, scores and serves comes with
extras, and is imported where it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from captioner.errors import ToolError

_OURS = ("captioner", "training", "serving")  # a missing module of these is a fault, not an extra


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Let what is done inside use the packages of an extra; `what` needs them.

        with needing("training", "a checkpoint"):
            import torch

    Raises:
        ToolError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as problem:
        package = (problem.name or "").partition(".")[0]
        if package in _OURS:
            raise
        raise ToolError(
            f"{what} needs the extra `{extra}` of captioner ({package} is not installed here); "
            f"run: pip install 'captioner[{extra}]'"
        ) from problem
