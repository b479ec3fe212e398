"""Text from outside, made fit for one line of a terminal or of a log."""

import re
from io import TextIOWrapper
from typing import TextIO

# Control characters, line and paragraph separators, what turns the direction of writing, and
# halves of characters (surrogates), which no encoding can hold.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def escaped(text: str) -> str:
    """Return the text with escapes, such as `\\n`, for what would break or garble a line.

    A byte of a file's name that is not UTF-8, which Python keeps as a surrogate, becomes `\\xe9`.
    """
    return _UNFIT.sub(lambda found: _escape(found[0]), text)


def in_one_line(problem: object) -> str:
    """Return what an exception says without line breaks, or its type's name if it says nothing."""
    return " ".join(str(problem).split()) or type(problem).__name__


def accept_any_text(stream: TextIO) -> None:
    """Let a stream print escapes for characters that its encoding lacks, in place of an error."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def holds_half_character(text: str) -> bool:
    """Whether the text holds a surrogate without its partner, which UTF-8 cannot hold."""
    return _HALF_CHARACTER.search(text) is not None


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # surrogateescape, PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
