"""Errors of the service: a request that is refused, or whose client has disconnected.

Each has its own class, so that `problems.py` can give it a status. Messages hold this project's
words and numbers only, nothing from an uploaded file.
"""

from typing import TYPE_CHECKING

from captioner.errors import CaptionerError
from captioner.sandbox.errors import DeadlineExceeded, ImageCode, ImageRejected, NotReady

if TYPE_CHECKING:
    from serving.model import ServedModel

__all__ = [
    "CaptioningFailed",
    "ClientGone",
    "DeadlineExceeded",
    "ImageCode",
    "ImageRejected",
    "ModelChanged",
    "NotReady",
    "Overloaded",
]


class Overloaded(CaptionerError):  # noqa: N818
    """There is more to do than can be done in time; after `retry_after_seconds` there may not."""

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class CaptioningFailed(CaptionerError):  # noqa: N818
    """The model failed at this very request, also when it was tried alone."""


class ModelChanged(CaptionerError):  # noqa: N818
    """Another model runs now than the one that a request was prepared for; nothing was captioned.

    The request can be prepared anew, for `model`.
    """

    def __init__(self, model: "ServedModel") -> None:
        super().__init__("another model runs now than when the request came")
        self.model = model


class ClientGone(Exception):  # noqa: N818 - not an error: nobody is there to be told
    """The client hung up."""
