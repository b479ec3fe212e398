"""The stress script without a service: what it sends, what it takes for sane, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = """
import sys
sys.path.insert(0, sys.argv[1])
from stress.attacks import Attack, Effect, attacks, is_sane
from stress.client import percentile, photographs
from stress.hostile_images import bombs, mutation, originals
from stress.report import Report

cases = originals()
made = [mutation(3, index, cases) for index in range(40)]
assert made == [mutation(3, index, cases) for index in range(40)]
assert len({data for _, data in made}) > 35
assert made != [mutation(4, index, cases) for index in range(40)]
pictures = photographs(450)
assert len({one.size for one in pictures}) == 450
assert max(map(len, bombs().values())) < 10 << 20
names = [one.name for one in attacks(pictures[0].data)]
assert len(set(names)) == len(names) > 300
answer = b"HTTP/1.1 422 X\\r\\nContent-Type: application/problem+json\\r\\n\\r\\n{}"
attack = Attack("GET /", b"")
assert is_sane(attack, Effect((422,), answer, 1.0))
assert is_sane(attack, Effect((), b"", 1.0))
assert not is_sane(attack, Effect((422,), answer, 31.0))
assert not is_sane(attack, Effect((500,), answer, 1.0))
assert not is_sane(attack, Effect((422,), answer + b"Traceback", 1.0))
assert not is_sane(attack, Effect((422,), answer.replace(b"json", b"text"), 1.0))
assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
report = Report("x")
assert not report.is_met
report.demand("a", 1, True)
assert report.is_met
report.demand("b", 2, False)
assert not report.is_met and report.to_json()["demands"][1]["is_met"] is False
"""


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_what_is_sent_can_be_made_again_and_what_is_wrong_is_seen() -> None:
    done = run("-c", CHECKS, str(ROOT / "scripts"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("nothing", "--checkpoint", "x"),
            "there is no scenario 'nothing'; choose from overload, ",
        ),
        ((), "give either --checkpoint, or --url with --pid"),
        (("slow", "--url", "http://localhost:1"), "--url needs --pid"),
        (("terminate", "--url", "http://x", "--pid", "1"), "terminate needs a service of its own"),
        (("soak", "--rate", "0", "--checkpoint", "x"), "--rate is 0; give more than 0"),
        (("slow", "--checkpoint", "/nowhere"), "the service does not start: error: checkpoint is"),
    ],
)
def test_bad_commands_are_one_line(words: tuple[str, ...], message: str) -> None:
    done = run("scripts/stress_serving.py", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
