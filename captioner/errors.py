"""Every error that a user can cause, by its cause.

A message holds three things: what was met, what is allowed, what to do. It is one line, so that
the command line can print it as it stands and leave with status 2.
"""


class CaptionerError(Exception):
    """Root of all errors that this project raises on purpose."""


class OptionError(CaptionerError):
    """An option or configuration value is out of range or contradicts another one."""


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
    """An external program, such as Java, is missing, failed or did not answer in time."""


class TrainingError(CaptionerError):
    """Training cannot go on: the loss is not a number, or there is nothing to resume."""
