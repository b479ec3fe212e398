"""Output of captions: a line each or as JSON, with skipped photographs named on standard error."""

import json
import sys
from collections.abc import Iterable, Mapping
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


_OF_ATTENTION = ("attribute_attention", "shares")  # of a caption, in JSON


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
        self,
        name: str,
        captions: Iterable["Caption | ServedCaption"],
        attributes: Iterable[tuple[str, float]] = (),
        drawn: Path | None = None,
    ) -> None:
        """Take the captions of a photograph, and where its attention was drawn, if it was.

        What was looked at beside the photograph stands in JSON then: as in the service's answers.
        """
        figures = _FIGURES if drawn is None else (*_FIGURES, *_OF_ATTENTION)
        entry: dict[str, Any] = {"image": name, "captions": []}
        for caption in captions:
            entry["captions"].append({name: _plain(getattr(caption, name)) for name in figures})
            if not self.as_json:
                log_prob = f"\t{caption.log_prob:.3f}" if self.with_log_prob else ""
                line = f"{escaped(name)}\t{escaped(caption.text)}{log_prob}"
                self.lines.print(line, sys.stdout)
        if drawn is not None:
            entry["attributes"] = [
                {"word": word, "probability": probability} for word, probability in attributes
            ]
            entry["attention"] = str(drawn)
            self.lines.print(escaped(f"attention of {name} drawn in {drawn}"), sys.stderr)
        self.entries.append(entry)

    def finish(self) -> None:
        """Print what was held back, and the JSON if there is anything to put in it."""
        self.lines.release()
        if self.as_json and self.entries:
            print_json(self.entries)


def _plain(value: Any) -> Any:
    """Return a figure in types that JSON has; arrays become lists."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
