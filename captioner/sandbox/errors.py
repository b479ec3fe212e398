"""Errors of the sandbox: a picture that is refused, or one that was not decoded in time.

Messages hold this project's words and numbers only, nothing from a picture's file.
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


class DeadlineExceeded(CaptionerError):  # noqa: N818
    """The request's deadline passed before its answer was there."""

    def __init__(self, detail: str = "the request's deadline passed before its captions") -> None:
        super().__init__(detail)


class NotReady(CaptionerError):  # noqa: N818
    """The service is starting, draining or closed."""

    def __init__(self, detail: str = "the service is starting or shutting down") -> None:
        super().__init__(detail)
