"""SPICE, an optional metric: its models are 400 MB and it is slow.

The jar is pycocoevalcap's, called as its wrapper calls it (Anderson et al. 2016), but with a
time-out and with its files in a temporary folder instead of the installed package.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from captioner.errors import ToolError
from captioner.metrics.java import find_jar, find_java, java_command, run_java

_JAR = "spice/spice-1.0.jar"
_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
# The scene graph parser looks into classes that Java has kept closed since version 16.
_OPENED = ("lang", "math", "net", "text", "util", "util.concurrent")


def find_spice() -> Path:
    """Return the path of SPICE's jar.

    Raises:
        ToolError: the jar, or the models that pycocoevalcap does not carry, are missing.
    """
    jar = find_jar(_JAR)
    missing = [name for name in _MODELS if not (jar.parent / "lib" / name).is_file()]
    if missing:
        raise ToolError(
            f"SPICE needs {' and '.join(missing)} in {jar.parent / 'lib'}; fetch them once, with "
            f'a network, by: python -c "from pycocoevalcap.spice.get_stanford_models import '
            f'get_stanford_models as fetch; fetch()"; or leave SPICE out'
        )
    return jar


def score_spice(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    *,
    timeout_seconds: float = 3600.0,
    heap: str = "8G",
    java: Path | None = None,
) -> tuple[float, list[float]]:
    """Return the mean SPICE and that of each caption; NaN where neither text names anything.

    Raises:
        ToolError: Java, the jar or its models are missing, or it failed or took too long.
    """
    jar = find_spice()
    program = find_java(java)
    with tempfile.TemporaryDirectory(prefix="captioner-spice-") as folder:
        given, out = Path(folder) / "captions.json", Path(folder) / "scores.json"
        entries = [
            {"image_id": number, "test": candidate, "refs": list(own)}
            for number, (own, candidate) in enumerate(zip(references, candidates, strict=True))
        ]
        given.write_text(json.dumps(entries))
        opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED]
        asked = (str(given), "-cache", folder, "-out", str(out), "-subset", "-silent")
        command = java_command(program, *opened, f"-Xmx{heap}", "-jar", str(jar), *asked)
        run_java(command, what="SPICE", folder=jar.parent, timeout_seconds=timeout_seconds)
        try:
            answers = {
                answer["image_id"]: answer["scores"]["All"]["f"]
                for answer in json.loads(out.read_bytes())
            }
            each = [
                math.nan if answers[number] is None else float(answers[number])
                for number in range(len(candidates))
            ]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ToolError(
                f"SPICE left no readable scores ({type(problem).__name__}: {problem}); "
                f"try again, or leave SPICE out"
            ) from problem
    return math.fsum(each) / len(each), each
