import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from captioner.errors import ToolError
from captioner.metrics.java import find_jar, find_java, java_environment
from captioner.metrics.meteor import METEOR_JAR, MeteorProcess

FOREVER = "for line in sys.stdin: say(line)\n"
PAIRS: list[tuple[list[str], str]] = [
    (["a dog runs", "the dog is running"], "a dog is running"),
    (["two cats sleep"], "a cat sleeps"),
    (["a red bus", "the bus", "a large red bus"], "the red bus"),
    (["a man"], "a woman"),
]
REFERENCES = [own for own, _ in PAIRS]
CANDIDATES = [candidate for _, candidate in PAIRS]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def score(
    meteor: MeteorProcess, references: list[list[str]], candidates: list[str]
) -> tuple[float, list[float]]:
    meteor.begin(references, candidates)
    return meteor.finish()


def test_scores_equal_those_of_pycocoevalcaps_own_class(
    meteor: MeteorProcess,
    references: dict[str, list[str]],
    candidates: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    if (jar := find_jar(METEOR_JAR).as_posix()) != quote(jar):
        pytest.skip(f"pycocoevalcap's own class cannot work in a path like {jar}")
    keys = list(references)[:300]
    # Every other candidate belongs to another image, so that bad captions are compared too.
    chosen = {key: candidates[keys[i // 2 * 2]] for i, key in enumerate(keys)}
    java = find_java()
    monkeypatch.setenv("PATH", java_environment(java)["PATH"])
    peer = Meteor()
    # It leaves all pipes but one to the garbage collector, which warns.
    pipes = (peer.meteor_p.stdout, peer.meteor_p.stderr)
    try:
        expected, expected_each = peer.compute_score(
            {key: references[key] for key in keys}, {key: [chosen[key]] for key in keys}
        )
    finally:
        if peer.lock.locked():  # left so by an error; its end would wait for it for ever
            peer.lock.release()
        del peer
        for pipe in pipes:
            pipe.close()
    overall, each = score(meteor, [references[key] for key in keys], [chosen[key] for key in keys])
    assert overall == expected
    assert each == expected_each


def test_it_works_in_a_folder_with_an_odd_name(
    tmp_path: Path, meteor: MeteorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = find_jar(METEOR_JAR)
    odd = tmp_path / "my %20 photographs, größer" / jar.name
    odd.parent.mkdir()
    shutil.copy(jar, odd)
    (odd.parent / "data").symlink_to(jar.parent / "data")
    monkeypatch.setattr("captioner.metrics.meteor.find_jar", lambda _: odd)
    with closing(MeteorProcess()) as there:
        assert score(there, REFERENCES, CANDIDATES) == score(meteor, REFERENCES, CANDIDATES)


def test_odd_captions_neither_stop_it_nor_shift_the_others(meteor: MeteorProcess) -> None:
    _, expected = score(meteor, REFERENCES, CANDIDATES)
    odd: list[tuple[list[str], str]] = [
        (["a dog"], ""),
        ([""], "a dog"),
        (["", "a dog"], "a dog"),
        ([""], ""),
        (["a dog"], "|||"),
        (["a dog ||| a cat"], "a ||| dog |||"),
        (["a dog"], "a\ndog\r\nEVAL ||| 1 2"),
        (["a dog"], ". . ."),
        (["ein Hünd 狗 😀"], "ein Hünd 狗 😀"),
        (["a dog"], "a dog \ud800"),
        (["a dog\u2028runs"], "a dog\x85runs"),
        (["a"], "a " * 60),
    ]
    mixed = [pair for couple in zip(PAIRS * 3, odd, strict=True) for pair in couple]
    overall, each = score(meteor, [own for own, _ in mixed], [candidate for _, candidate in mixed])
    assert each[::2] == expected * 3
    assert 0 < overall < 1
    got = each[1::2]
    assert got[0] == got[1] == got[3] == got[4] == got[7] == 0.0
    assert got[2] > 0.9
    assert got[8] > 0.9
    assert meteor.starts == 1


def test_no_captions_are_no_trouble_later(meteor: MeteorProcess) -> None:
    one = score(meteor, [["a dog"]], ["a dog"])
    assert one[0] == one[1][0] > 0.9
    assert score(meteor, [["a dog"]], ["a dog"]) == one


def test_a_silent_process_is_ended_in_time(fake_java: Any) -> None:
    java = fake_java("import time\nfor line in sys.stdin: time.sleep(600)")
    meteor = MeteorProcess(timeout_seconds=0.5, java=java)
    meteor.launch()
    pid = meteor.pid
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"METEOR gave no answer within 0\.5 s and was ended"):
        score(meteor, REFERENCES, CANDIDATES)
    assert time.monotonic() - started < 5
    assert pid is not None
    assert not is_running(pid)
    assert meteor.pid is None


def test_a_process_that_reads_nothing_is_ended_in_time(fake_java: Any) -> None:
    java = fake_java("import time; time.sleep(600)")
    with closing(MeteorProcess(timeout_seconds=0.5, java=java)) as meteor:
        started = time.monotonic()
        with pytest.raises(ToolError, match="gave no answer"):  # far more than a pipe holds
            score(meteor, [["a dog"] * 10] * 20_000, ["a dog"] * 20_000)
        assert time.monotonic() - started < 5


def test_a_flood_on_stderr_blocks_nothing(fake_java: Any) -> None:
    java = fake_java(
        "for line in sys.stdin:\n"
        "    sys.stderr.write('warning ' * 200_000); sys.stderr.flush()\n"
        "    say(line)\n"
    )
    with closing(MeteorProcess(timeout_seconds=30, java=java)) as meteor:
        assert score(meteor, REFERENCES, CANDIDATES)[1] == [2.0, 1.0, 3.0, 1.0]


@pytest.mark.parametrize("answers_before", [0, 2, 4])
def test_a_process_that_dies_once_is_started_again(
    fake_java: Any, tmp_path: Path, answers_before: int
) -> None:
    marker = tmp_path / "died"
    java = fake_java(
        "import pathlib\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "for count, line in enumerate(sys.stdin):\n"
        f"    if count == {answers_before} and not marker.exists():\n"
        "        marker.touch(); sys.exit('killed')\n"
        "    say(line)\n"
    )
    with closing(MeteorProcess(timeout_seconds=30, java=java)) as meteor:
        assert score(meteor, REFERENCES, CANDIDATES) == (1.75, [2.0, 1.0, 3.0, 1.0])
        assert meteor.starts == 2


def test_a_process_that_dies_twice_is_an_error_with_its_last_words(fake_java: Any) -> None:
    java = fake_java("sys.exit('java.lang.OutOfMemoryError:\\n Java heap space')")
    with (
        closing(MeteorProcess(timeout_seconds=30, java=java, heap="3G")) as meteor,
        pytest.raises(
            ToolError,
            match=r"METEOR ended with status 1: java\.lang\.OutOfMemoryError: Java heap space; "
            r"it was started again once and died again; is there enough memory .* heap of 3G",
        ),
    ):
        score(meteor, REFERENCES, CANDIDATES)


def test_words_where_numbers_are_due_are_an_error(fake_java: Any) -> None:
    java = fake_java("for line in sys.stdin: print('Error: specify SCORE', flush=True)")
    with (
        closing(MeteorProcess(timeout_seconds=30, java=java)) as meteor,
        pytest.raises(ToolError, match="METEOR answered 'Error: specify SCORE' where numbers"),
    ):
        score(meteor, REFERENCES, CANDIDATES)


def test_killed_from_outside_between_two_calls_it_comes_back(fake_java: Any) -> None:
    with closing(MeteorProcess(timeout_seconds=30, java=fake_java(FOREVER))) as meteor:
        first = score(meteor, REFERENCES, CANDIDATES)
        assert meteor.pid is not None
        os.kill(meteor.pid, signal.SIGKILL)
        assert score(meteor, REFERENCES, CANDIDATES) == first
        assert meteor.starts == 2


def test_closing_ends_the_process(fake_java: Any) -> None:
    meteor = MeteorProcess(java=fake_java(FOREVER))
    meteor.launch()
    pid = meteor.pid
    assert pid is not None
    assert is_running(pid)
    meteor.close()
    meteor.close()
    assert not is_running(pid)


def test_a_forgotten_object_takes_its_process_along(fake_java: Any) -> None:
    meteor = MeteorProcess(java=fake_java(FOREVER))
    meteor.launch()
    pid = meteor.pid
    del meteor
    assert pid is not None
    assert not is_running(pid)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_of_the_parent_does_not_end_it(fake_java: Any) -> None:
    with closing(MeteorProcess(timeout_seconds=30, java=fake_java(FOREVER))) as meteor:
        meteor.launch()
        child = os.fork()
        if child == 0:
            try:
                meteor.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        score(meteor, REFERENCES, CANDIDATES)
        assert meteor.starts == 1


def test_the_real_process_ends_after_its_parent_was_killed() -> None:
    script = (
        "import os, signal\n"
        "from captioner.metrics.meteor import MeteorProcess\n"
        "meteor = MeteorProcess()\n"
        "meteor.launch()\n"
        "print(meteor.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, check=False
    )
    assert finished.returncode == -signal.SIGKILL
    pid = int(finished.stdout)
    try:
        assert ends_within(pid, 120)  # when its tables are loaded it meets the end of its input
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
