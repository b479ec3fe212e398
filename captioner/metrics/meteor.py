"""METEOR 1.5 in a long-lived process, in place of pycocoevalcap's wrapper.

The same jar with the same options gives the same scores (Denkowski and Lavie 2014). Each answer has
a time-out, and a process that dies is restarted once. Captions may hold anything: nothing at all,
line breaks, or the separator of its protocol. `begin` returns at once, so scoring runs while the
caller does something else.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from captioner.errors import ToolError
from captioner.metrics.java import find_jar, find_java, java_command
from captioner.metrics.line_process import LineProcess, ProcessEndedError

METEOR_JAR = "meteor/meteor-1.5.jar"
# Named although the jar knows it: it cannot find the table by itself in a path with a space.
_PARAPHRASES = "data/paraphrase-en.gz"
_LINE_BREAKS = re.compile(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_STATISTICS = 23  # numbers in the jar's answer to one SCORE line


class MeteorProcess:
    """One METEOR, started when it is first needed; for one thread at a time."""

    def __init__(
        self, *, timeout_seconds: float = 120.0, heap: str = "2G", java: Path | None = None
    ) -> None:
        """Prepare the process; nothing is started yet.

        `timeout_seconds` is allowed for each answer; the first one waits for the start too, 4 to
        12 s on two cores. `heap` is Java's limit; half a gigabyte is used in fact.
        """
        self.starts = 0  # Java processes so far
        self._timeout_seconds = timeout_seconds
        self._heap = heap
        self._java = java
        self._process: LineProcess | None = None
        self._lines: list[str] = []
        self.statistics = np.zeros((0, _STATISTICS))  # of each caption that `finish` scored

    @property
    def pid(self) -> int | None:
        """The process id of the running METEOR, or None."""
        return self._process.pid if self._process and self._process.is_alive else None

    def launch(self) -> LineProcess:
        """Start METEOR unless it runs, without waiting until it is ready.

        Raises:
            ToolError: Java or the jar is missing.
        """
        if self._process is not None and self._process.is_alive:
            return self._process
        self.close()
        java, jar = find_java(self._java), find_jar(METEOR_JAR)
        asked = ("-", "-", "-stdio", "-l", "en", "-norm", "-a", _PARAPHRASES)
        command = java_command(java, f"-Xmx{self._heap}", "-jar", str(jar), *asked)
        self._process = LineProcess(command, what="METEOR", folder=jar.parent)
        self.starts += 1
        return self._process

    def begin(self, references: Sequence[Sequence[str]], candidates: Sequence[str]) -> None:
        """Send tokenised candidates, each with its references, and return at once.

        Raises:
            ToolError: Java or the jar is missing.
        """
        self._lines = [
            " ||| ".join(["SCORE", *map(_harmless, [*own, candidate])])
            for own, candidate in zip(references, candidates, strict=True)
        ]
        self.launch().send(self._lines)

    def finish(self) -> tuple[float, list[float]]:
        """Wait for what `begin` sent; return the score of all captions and that of each.

        Raises:
            ToolError: METEOR gave no answer in time, died twice, or answered nonsense.
        """
        statistics: list[str] = []
        may_restart = True
        while True:
            try:
                return self._collect(statistics)
            except ProcessEndedError as problem:
                if not may_restart:
                    raise ToolError(
                        f"{problem}; it was started again once and died again; "
                        f"is there enough memory for a Java heap of {self._heap}?"
                    ) from problem
            may_restart = False
            self.launch().send(self._lines[len(statistics) :])

    def score_of(self, places: Sequence[int]) -> float:
        """Return the score of some of the captions that `finish` scored, by their places there.

        METEOR weighs the sums of what it counted, as the jar does for all captions together.

        Raises:
            ToolError: METEOR gave no answer in time, died twice, or answered nonsense.
        """
        return self.scores_of_sums(self.statistics[list(places)].sum(axis=0, keepdims=True))[0]

    def scores_of_sums(self, sums: np.ndarray) -> list[float]:
        """Return the score of each row of summed statistics, [rows, statistics].

        Raises:
            ToolError: METEOR gave no answer in time, died twice, or answered nonsense.
        """
        rows = [" ".join(map(str, row)) for row in sums.tolist()]
        try:
            return self._weigh(self.launch(), rows)[1]
        except ProcessEndedError:
            return self._weigh(self.launch(), rows)[1]

    def close(self) -> None:
        """End the process; it may be started again."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _collect(self, statistics: list[str]) -> tuple[float, list[float]]:
        """Fill `statistics` with the answers that it lacks, then have them weighed."""
        assert self._process is not None
        while len(statistics) < len(self._lines):
            statistics.append(self._receive(self._process, _STATISTICS))
        found = self._weigh(self._process, statistics)
        self.statistics = np.array([line.split() for line in statistics], dtype=np.float64)
        return found

    def _weigh(self, process: LineProcess, statistics: Sequence[str]) -> tuple[float, list[float]]:
        """Return the score of all lines of statistics together and that of each."""
        process.send([" ||| ".join(["EVAL", *statistics])])
        # The jar answers with one score per caption, and then that of all together.
        *each, overall = (float(self._receive(process, 1)) for _ in (*statistics, "all"))
        return overall, each

    def _receive(self, process: LineProcess, count: int) -> str:
        """Return an answer, which has to be so many numbers."""
        answer = process.receive(self._timeout_seconds)
        with suppress(ValueError):
            if len([float(number) for number in answer.split()]) == count:
                return answer
        self.close()
        raise ToolError(
            f"METEOR answered {answer[:200]!r} where numbers were due; "
            f"try again, or reinstall pycocoevalcap"
        )


def _harmless(caption: str) -> str:
    """Return the caption without what the protocol would take for its own signs."""
    caption = _LINE_BREAKS.sub(" ", caption)
    while "|||" in caption:
        caption = caption.replace("|||", "")
    return caption.replace("  ", " ")
