"""Optional packages: one line that says which extra of `captioner` brings a missing one.

`pip install captioner` brings what captions photographs. What trains, scores and serves comes with
extras, and is imported where it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

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
        raise _missing(extra, what, package) from problem


def require(extra: str, what: str, *packages: str) -> None:
    """Check for packages of an extra without importing them.

    Raises:
        ToolError: one of them is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise _missing(extra, what, package)


def _missing(extra: str, what: str, package: str) -> ToolError:
    return ToolError(
        f"{what} needs the extra `{extra}` of captioner ({package} is not installed here); "
        f"run: pip install 'captioner[{extra}]'"
    )
