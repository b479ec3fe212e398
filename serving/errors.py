"""Errors of the service: a request that is refused, or whose client has disconnected.

Each has its own class, so that `problems.py` can give it a status. Messages hold this project's
words and numbers only, nothing from an uploaded file.
"""

from typing import Literal

from captioner.errors import CaptionerError

ImageCode = Literal["corrupt_image", "unsupported_format", "image_too_large"]


class ImageRejected(CaptionerError):  # noqa: N818
    """An upload is no picture that is accepted here."""

    def __init__(self, code: ImageCode, detail: str) -> None:
        super().__init__(detail)
        self.code: ImageCode = code
        self.detail = detail


class Overloaded(CaptionerError):  # noqa: N818
    """There is more to do than can be done in time; after `retry_after_seconds` there may not."""

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(CaptionerError):  # noqa: N818
    """The request's deadline passed before its answer was there."""

    def __init__(self, detail: str = "the request's deadline passed before its captions") -> None:
        super().__init__(detail)


class NotReady(CaptionerError):  # noqa: N818
    """The service is starting, draining or closed."""

    def __init__(self, detail: str = "the service is starting or shutting down") -> None:
        super().__init__(detail)


class CaptioningFailed(CaptionerError):  # noqa: N818
    """The model failed at this very request, also when it was tried alone."""


class ClientGone(Exception):  # noqa: N818 - not an error: nobody is there to be told
    """The client hung up."""
