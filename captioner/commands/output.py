"""How captions are written: a line each or as JSON, with skipped photographs named beside them."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from captioner.errors import CaptionerError


class AnyCaption(Protocol):
    """What is written of a caption, whether it was made here or by a service."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def log_prob(self) -> float: ...
    @property
    def probability(self) -> float: ...
    @property
    def score(self) -> float: ...


class Screen:
    """Lines for the terminal, held back while a progress bar is on it; elsewhere at once."""

    def __init__(self, *, hold: bool) -> None:
        self._hold = hold
        self._held: list[tuple[str, TextIO]] = []

    def line(self, text: str, stream: TextIO) -> None:
        if self._hold and stream.isatty():
            self._held.append((text, stream))
        else:
            print(text, file=stream, flush=True)

    def release(self) -> None:
        for text, stream in self._held:
            print(text, file=stream)
        self._held.clear()


@dataclass
class Results:
    """What has been found so far, shown line by line or kept for JSON."""

    screen: Screen
    as_json: bool
    with_log_prob: bool

    def __post_init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.is_any_skipped = False

    def skip(self, name: str, problem: CaptionerError) -> None:
        self.is_any_skipped = True
        self.entries.append({"image": name, "error": str(problem)})
        self.screen.line(f"skipped: {problem}", sys.stderr)

    def add(self, name: str, captions: Iterable[AnyCaption], drawn: Path | None = None) -> None:
        entry: dict[str, Any] = {"image": name, "captions": []}
        for caption in captions:
            entry["captions"].append(
                {
                    "text": caption.text,
                    "tokens": list(caption.tokens),
                    "log_prob": caption.log_prob,
                    "probability": caption.probability,
                    "score": caption.score,
                }
            )
            if not self.as_json:
                log_prob = f"\t{caption.log_prob:.3f}" if self.with_log_prob else ""
                self.screen.line(f"{name}\t{caption.text}{log_prob}", sys.stdout)
        if drawn is not None:
            entry["attention"] = str(drawn)
            self.screen.line(f"attention of {name} drawn in {drawn}", sys.stderr)
        self.entries.append(entry)


def numbered(out: Path, number: int, total: int) -> Path:
    """Return the name of one of `total` drawings."""
    return out if total == 1 else out.with_stem(f"{out.stem}-{number:0{len(str(total))}d}")
