"""A session on a GPU: steps that fail or hang do not stop the rest, and errors are found."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

scripts = str(Path(__file__).resolve().parents[2] / "scripts")
sys.path.insert(0, scripts)
try:
    import gpu_session
    from gpu import equality
finally:
    sys.path.remove(scripts)

STAND_IN = """
import argparse, json, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("step", "out", "minutes"):
    parser.add_argument("--" + name)
parser.add_argument("--try-out", action="store_true")
given = parser.parse_args()
if given.step == "equal":
    sys.exit("wrong")
if given.step == "speed":
    Path(given.out, "started").write_text("")
    time.sleep(600)
Path(given.out, given.step + ".json").write_text(json.dumps([{"size": "tiny", "found": 0.25}]))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(gpu_session, "_SCRIPT", script)
    return tmp_path / "out"


@pytest.mark.usefixtures("stand_in")
def test_a_step_that_fails_or_hangs_does_not_stop_the_rest(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = gpu_session.Step("it hangs", 3.0)
    monkeypatch.setitem(gpu_session.STEPS, "speed", hangs)
    words = ["--try-out", "--out", str(stand_in), "--steps", "equal", "speed", "seeds"]
    started = time.monotonic()
    assert gpu_session.main(words) == 1
    assert time.monotonic() - started < 60
    found = json.loads((stand_in / "gpu_session.json").read_text())
    assert found["outcomes"]["equal"].startswith("failed after")
    assert found["outcomes"]["speed"].startswith("stopped after")
    assert found["outcomes"]["seeds"].startswith("done in")
    assert found["figures"] == {"seeds": [{"size": "tiny", "found": 0.25}]}
    page = (stand_in / "gpu_session.md").read_text()
    assert "| size | found |" in page
    assert "| tiny | 0.25 |" in page
    assert "Tried out without a GPU" in page
    assert "wrong" in (stand_in / "equal.log").read_text()


def test_sigterm_ends_the_step_that_runs(stand_in: Path) -> None:
    words = ["--try-out", "--out", str(stand_in), "--steps", "speed"]
    program = (
        f"import sys; sys.path[:0] = [{scripts!r}, {str(Path(scripts).parent)!r}]\n"
        "from pathlib import Path; import gpu_session\n"
        f"gpu_session._SCRIPT = Path({str(gpu_session._SCRIPT)!r})\n"
        f"sys.exit(gpu_session.main({words!r}))"
    )
    session = psutil.Popen([sys.executable, "-c", program])
    try:
        ends = time.monotonic() + 60
        while not (stand_in / "started").exists():
            assert session.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.05)
        (step,) = session.children()
        session.send_signal(signal.SIGTERM)
        assert session.wait(60) == 143
        assert not step.is_running()
    finally:
        if session.poll() is None:
            session.kill()


def test_a_real_session_is_not_mixed_with_one_that_was_tried_out(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(stand_in), "--steps"]
    assert gpu_session.main([*words, "seeds", "--try-out"]) == 0
    monkeypatch.setattr(gpu_session, "has_gpu", lambda: True)
    before = (stand_in / "gpu_session.json").read_text()
    capsys.readouterr()
    assert gpu_session.main([*words, "seeds"]) == 2
    assert "holds a session with --try-out; give another folder" in capsys.readouterr().err
    assert (stand_in / "gpu_session.json").read_text() == before
    # What an earlier call found stays, with how it ended.
    assert gpu_session.main([*words, "captions", "--try-out"]) == 0
    outcomes = json.loads((stand_in / "gpu_session.json").read_text())["outcomes"]
    assert outcomes["seeds"] == json.loads(before)["outcomes"]["seeds"]
    assert outcomes["captions"].startswith("done in")


def test_no_time_is_told(stand_in: Path) -> None:
    words = ["--try-out", "--out", str(stand_in), "--minutes", "0.001", "--steps", "seeds"]
    assert gpu_session.main(words) == 1
    found = json.loads((stand_in / "gpu_session.json").read_text())
    assert found["outcomes"] == {"seeds": "no time was left"}


def test_without_a_gpu_it_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_session.main(["--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error == (
        "gpu_session.py: PyTorch finds no GPU here; give --try-out for tiny sizes without one\n"
    )
    assert os.listdir(tmp_path) == []


def test_errors_are_those_of_values_and_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for found in equality.errors(equality.CASES, cpu, "torch"):
        assert max(found["values"], found["gradients"]) < 1e-5
    several = equality.errors_of_several(3, equality.CASES[1], cpu, "torch")
    assert max(several["values"], several["gradients"]) < 1e-5
    run = equality.run_lstm

    def without_masks(tensors, masks, backend, lengths):  # type: ignore[no-untyped-def]
        return run(tensors, (None, None) if backend == "torch" else masks, backend, lengths)

    monkeypatch.setattr(equality, "run_lstm", without_masks)
    wrong = {found["mask"]: found for found in equality.errors(equality.CASES[2:5], cpu, "torch")}
    assert wrong["shared"]["values"] < 1e-5
    assert wrong["shared"]["gradients"] > 1e-2
    assert wrong["none"]["gradients"] < 1e-5
