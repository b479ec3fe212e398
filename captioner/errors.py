"""Errors that a user can cause, one class for each cause.

A message says what was met, what is allowed, and what to do. It is one line, so that the command
line can print it and exit with status 2.
"""

from captioner.text import escaped


class CaptionerError(Exception):
    """Root of all errors that this project raises on purpose.

    Names of files that would break the line, as with a line feed in them, are shown escaped.
    """

    def __init__(self, *messages: object) -> None:
        super().__init__(*(escaped(str(message)) for message in messages))


class OptionError(CaptionerError):
    """Options or configuration values are out of range or contradict each other.

    `problems` has a line for each.
    """

    @property
    def problems(self) -> tuple[str, ...]:
        return self.args

    def __str__(self) -> str:
        return "; ".join(self.problems)


class DataError(CaptionerError):
    """A data set is missing, malformed or empty."""


class ImageError(CaptionerError):
    """A single image is missing, truncated or not an image."""


class EncoderError(CaptionerError):
    """An encoder is unknown, or its weights are missing or do not fit."""


class CheckpointError(CaptionerError):
    """A checkpoint is missing, truncated, tampered with, or of another model."""


class StorageError(CaptionerError):
    """A file could not be written: the disk is full or not writable."""


class ToolError(CaptionerError):
    """An external program, such as Java, is missing, failed or did not answer in time.

    Or a package is missing that an extra of captioner brings.
    """


class ServiceError(CaptionerError):
    """A caption service refused a photograph, or did not answer as one.

    `code` is the service's own word, such as corrupt_image or overloaded; or `unreachable` where
    no answer came, and `unexpected_answer` where something else answered.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        detail: str = "",
        status: int | None = None,
        request_id: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail
        self.status = status
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    @property
    def concerns_every_photograph(self) -> bool:
        """Whether the next photograph would meet the same: no key, a bad option, no service."""
        return self.status in (401, 403, 404, 405) or self.code in _OF_EVERY_PHOTOGRAPH


_OF_EVERY_PHOTOGRAPH = ("invalid_parameter", "unreachable", "unexpected_answer")


class TrainingError(CaptionerError):
    """Training cannot go on: the loss is not a number, or there is nothing to resume."""
