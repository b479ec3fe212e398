"""Output of captions: a line each or as JSON, with skipped photographs named on standard error."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from captioner.errors import CaptionerError
from captioner.text import escaped

if TYPE_CHECKING:
    from captioner.captioner import Caption
    from captioner.client import ServedCaption

_FIGURES = (  # of a caption, in JSON
    *("text", "tokens", "confidence", "log_prob", "probability", "score"),
    *("word_probabilities", "end_probability"),
)


def print_json(value: object) -> None:
    """Print JSON in letters if standard output can take all of them, else in JSON's escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1)
    print(text)


class HeldLines:
    """Lines for the terminal, held back while a progress bar is on it; elsewhere at once."""

    def __init__(self, *, hold: bool) -> None:
        self._hold = hold
        self._held: list[tuple[str, TextIO]] = []

    def print(self, text: str, stream: TextIO) -> None:
        if self._hold and stream.isatty():
            self._held.append((text, stream))
        else:
            print(text, file=stream, flush=True)

    def release(self) -> None:
        for text, stream in self._held:
            print(text, file=stream)
        self._held.clear()


@dataclass
class CaptionOutput:
    """The captions found so far, printed line by line or kept for JSON."""

    lines: HeldLines
    as_json: bool
    with_log_prob: bool
    entries: list[dict[str, Any]] = field(default_factory=list)
    is_any_skipped: bool = False

    def skip(self, name: str, problem: CaptionerError) -> None:
        self.is_any_skipped = True
        self.entries.append({"image": name, "error": str(problem)})
        self.lines.print(f"skipped: {problem}", sys.stderr)

    def add(
        self, name: str, captions: Iterable["Caption | ServedCaption"], drawn: Path | None = None
    ) -> None:
        entry: dict[str, Any] = {"image": name, "captions": []}
        for caption in captions:
            entry["captions"].append({name: getattr(caption, name) for name in _FIGURES})
            if not self.as_json:
                log_prob = f"\t{caption.log_prob:.3f}" if self.with_log_prob else ""
                line = f"{escaped(name)}\t{escaped(caption.text)}{log_prob}"
                self.lines.print(line, sys.stdout)
        if drawn is not None:
            entry["attention"] = str(drawn)
            self.lines.print(escaped(f"attention of {name} drawn in {drawn}"), sys.stderr)
        self.entries.append(entry)

    def finish(self) -> None:
        """Print what was held back, and the JSON if there is anything to put in it."""
        self.lines.release()
        if self.as_json and self.entries:
            print_json(self.entries)
