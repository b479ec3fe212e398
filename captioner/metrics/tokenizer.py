"""The Penn Treebank tokeniser in front of every metric, as coco-caption applies it.

The Stanford jar of pycocoevalcap runs with the same flags and the same punctuation is dropped, so
the tokens are those of its `PTBTokenizer`. Unlike there, line breaks of any kind inside a caption
are spaces, and the number of lines that come back is checked, so captions cannot change places.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from captioner.errors import ToolError
from captioner.metrics.java import find_jar, find_java, java_command, run_java

TOKENIZER_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
# Of coco-caption's ptbtokenizer.py, Fang and Lin 2014.
PUNCTUATION = frozenset(
    "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()  # noqa: SIM905
)
_PROGRAM = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
_LINE_BREAKS = re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]")


class Tokenizer:
    """Turns captions into lower-case tokens joined by single spaces; one Java start per call."""

    def __init__(self, *, timeout_seconds: float = 300.0, java: Path | None = None) -> None:
        self.starts = 0  # Java processes so far
        self.lines = 0  # captions tokenised so far
        self._timeout_seconds = timeout_seconds
        self._java = java

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Return the tokens of each caption; nothing but punctuation gives an empty string.

        The jar decides by what follows whether a point ends a sentence or an abbreviation, the
        next caption included; so captions that are compared must come in the same order.

        Raises:
            ToolError: Java or the jar is missing, failed, or took longer than the time-out.
        """
        if not captions:
            return []
        java, jar = find_java(self._java), find_jar(TOKENIZER_JAR)
        self.starts += 1
        self.lines += len(captions)
        text = "\n".join(_LINE_BREAKS.sub(" ", caption) for caption in captions)
        answer = run_java(
            java_command(java, "-cp", str(jar), *_PROGRAM),
            what="the tokeniser",
            folder=jar.parent,
            timeout_seconds=self._timeout_seconds,
            given=text.encode("utf-8", "replace"),
        )
        lines = answer.decode("utf-8", "replace").split("\n")
        if len(lines) != len(captions):
            raise ToolError(
                f"the tokeniser returned {len(lines)} lines for {len(captions)} captions; "
                f"look for unusual characters in them, or reinstall pycocoevalcap"
            )
        return [
            " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)
            for line in lines
        ]
