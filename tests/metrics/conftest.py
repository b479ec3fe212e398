"""One real METEOR for all tests of the metrics, and fake ones that misbehave."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from captioner.metrics.meteor import MeteorProcess

FakeJava = Callable[[str], Path]

# Answers METEOR's two requests with numbers that can be foretold: the score of a caption is the
# number of its references.
HONEST = """
import sys
def answer(line):
    parts = line.rstrip("\\n").split(" ||| ")
    if parts[0] == "SCORE":
        return [" ".join([str(float(len(parts) - 2))] * 23)]
    scores = [float(part.split()[0]) for part in parts[1:]]
    return [*map(str, scores), str(sum(scores) / len(scores))]
def say(line):
    print("\\n".join(answer(line)), flush=True)
"""


@pytest.fixture
def fake_java(tmp_path: Path) -> FakeJava:
    """Make a program that is run instead of Java: a Python script with METEOR's manners."""

    def make(script: str) -> Path:
        path = tmp_path / "java"
        path.write_text(f"#!{sys.executable}\n{HONEST}\n{script}", encoding="utf-8")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture(scope="session")
def meteor() -> Iterator[MeteorProcess]:
    with closing(MeteorProcess(timeout_seconds=240)) as process:
        yield process


@pytest.fixture(scope="session")
def fakecap(shared_data: Path) -> Path:
    return shared_data / "data" / "metrics" / "fakecap"


@pytest.fixture(scope="session")
def references(fakecap: Path) -> dict[str, list[str]]:
    return json.loads((fakecap / "gts.json").read_bytes())


@pytest.fixture(scope="session")
def candidates(fakecap: Path) -> dict[str, str]:
    lists = json.loads((fakecap / "res.json").read_bytes())
    return {key: own[0] for key, own in lists.items()}


@pytest.fixture(scope="session")
def raw_candidates(fakecap: Path) -> dict[str, str]:
    rows = json.loads((fakecap / "captions_val2014_fakecap_results.json").read_bytes())
    return {str(row["image_id"]): row["caption"] for row in rows}
