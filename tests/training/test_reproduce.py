"""The command that reruns a reproduction: what it refuses, and one small grid from end to end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training import reproduce, word_language_model
from training.benchmarks.reproductions import Reproduction, Row, Setting, runs_of

TABLE3 = str(Path(__file__).resolve().parents[2] / "docs" / "results" / "table3.json")
TINY = Reproduction(
    title="A tiny figure",
    claim="nothing.",
    settings=(
        Setting(
            "copying, T = 3",
            "copying",
            (("delay", 3), ("symbols", 1), ("hidden_size", 4), ("updates", 2)),
            2,
            "tiny",
        ),
    ),
    rows=(Row("vanilla LSTM", "lstm", (("p", 0.0),)), Row("IRNN", "irnn")),
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figure9"], "argument reproduction: invalid choice: 'figure9'"),
        (["figure2", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["figure2", "--budget", "-1"], "--budget is -1.0; it must be above 0"),
        (["figure2", "--budget", "nan"], "--budget is nan; it must be a finite number"),
        (["figure2", "--jobs", "0"], "--jobs is 0; it must be at least 1"),
        (["figure2", "--lr", "5"], "--lr is 5; it must be above 0 and below 1"),
        (["figure2", "--device", "tpu9"], "device is 'tpu9', which this machine cannot use"),
        (["figure2", "--report", "--background"], "--report trains nothing, so it needs no"),
        (["figure3", "--mnist", "nowhere"], "MNIST is not in nowhere"),
        (["figure2", "--out", "/dev/null"], "--out /dev/null: /dev/null is not a folder"),
        (["figure2", "--figures", "gone.json"], "the file of --figures not found: there is no"),
        (["figure2", "--figures", TABLE3], f"{TABLE3} holds no figures of benchmark runs; give"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"reproduce.py: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_grid_is_trained_told_and_then_only_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(reproduce.REPRODUCTIONS, "figure2", TINY)
    words = ["figure2", "--seeds", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce.main(words) == 0
    assert "2 runs" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figure2.json").read_text())
    assert [run["epochs"] for run in figures["runs"].values()] == [2.0, 2.0]
    assert figures["origin"]["command"].endswith("--device cpu")
    assert all(run["commits"] == [figures["origin"]["commit"]] for run in figures["runs"].values())
    page = (tmp_path / "figure2.md").read_text()
    assert "2 of 2 runs came to the end" in page
    assert (tmp_path / "figure2.png").stat().st_size > 1000

    before = (tmp_path / "figure2.json").read_text()
    started = time_of_run(tmp_path)
    assert reproduce.main(words) == 0
    assert time_of_run(tmp_path) == started
    assert reproduce.main([*words, "--report", "--seeds", "2"]) == 0
    assert time_of_run(tmp_path) == started
    more = json.loads((tmp_path / "figure2.json").read_text())
    assert sum(run["epochs"] == 0 for run in more["runs"].values()) == 2
    assert json.loads(before)["runs"].items() <= more["runs"].items()


def test_runs_of_another_machine_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reproduce.REPRODUCTIONS, "figure2", TINY)
    words = ["figure2", "--device", "cpu", "--seeds"]
    there, here = tmp_path / "there", tmp_path / "here"
    assert reproduce.main([*words, "1", "--out", str(there)]) == 0
    figures = str(there / "figure2.json")
    assert reproduce.main([*words, "2", "--out", str(here), "--figures", figures]) == 0
    assert sorted(path.name[-5:] for path in (here / "runs").iterdir()) == ["seed1", "seed1"]
    both = json.loads((here / "figure2.json").read_text())["runs"]
    assert json.loads(Path(figures).read_text())["runs"].items() < both.items()
    assert {run["epochs"] for run in both.values()} == {2.0}
    assert len(both) == 4


TEXT = Setting(
    "a text",
    "word_language_model",
    (("hidden_size", 4), ("embedding_size", 4), ("batch_size", 2), ("steps", 5), ("min_count", 1)),
    1,
    "tinytext",
    score="perplexity",
)


def test_runs_of_another_text_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("vanilla LSTM", "lstm", (("p", 0.0),))
    tiny = replace(TINY, settings=(TEXT,), rows=(row,))
    monkeypatch.setitem(reproduce.REPRODUCTIONS, "language", tiny)
    for name in ("one", "other"):
        (tmp_path / name).write_text(f"the {name} dog runs and the {name} cat sleeps\n" * 20)
    words = ["language", "--seeds", "1", "--device", "cpu", "--text"]
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (run,) = runs_of(tiny, 1, ())
    trained = [*run.arguments, "--text", str(tmp_path / "one"), "--epochs", "1"]
    assert word_language_model.main([*trained, "--out", str(out / "runs" / run.name)]) == 0
    assert reproduce.main([*words, str(tmp_path / "one"), "--out", str(out)]) == 0
    page = (out / "language.md").read_text()
    capsys.readouterr()

    figures = ["--figures", str(out / "language.json")]
    for more, where in (
        (["--out", str(out)], str(out / "runs" / run.name)),
        (["--out", str(elsewhere), *figures], f"{run.name} in --figures"),
    ):
        assert reproduce.main([*words, str(tmp_path / "other"), *more]) == 2
        assert capsys.readouterr().err == (
            f"reproduce.py: {where} was trained on other data than {tmp_path / 'other'}; give the "
            "same as before, or another --out\n"
        )
    assert (out / "language.md").read_text() == page
    assert not elsewhere.exists()
    again = [*words, str(tmp_path / "one"), "--out", str(elsewhere), *figures]
    assert reproduce.main(again) == 0
    assert not (elsewhere / "runs").exists()


def test_a_run_that_breaks_off_is_told_by_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("vanilla LSTM", "lstm", (("p", 2.0),))
    monkeypatch.setitem(reproduce.REPRODUCTIONS, "figure2", replace(TINY, rows=(row,)))
    words = ["figure2", "--seeds", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce.main(words) == 1
    assert "broke off: --p is 2.0" in capsys.readouterr().err
    assert "--p is 2.0" in (tmp_path / "figure2.md").read_text()


def test_a_rate_that_is_given_twice_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reproduce.REPRODUCTIONS, "figure2", TINY)
    words = ["figure2", "--report", "--seeds", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce.main([*words, "--lr", "2e-3", "0.002"]) == 0
    assert len(json.loads((tmp_path / "figure2.json").read_text())["runs"]) == 2


def test_a_run_that_stops_detaching_is_not_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("annealed", "lstm", (("p", 0.5), ("anneal_epochs", 1)))
    monkeypatch.setitem(reproduce.REPRODUCTIONS, "ablations", replace(TINY, rows=(row,)))
    words = ["ablations", "--seeds", "1", "--out", str(tmp_path), "--device", "cpu"]
    assert reproduce.main(words) == 0
    page = (tmp_path / "ablations.md").read_text()
    capsys.readouterr()
    assert reproduce.main([*words, "--epochs", "3"]) == 2
    error = capsys.readouterr().err
    assert "was begun with --epochs 2 and detaches until 1 before their end" in error
    assert error.count("\n") == 1
    assert (tmp_path / "ablations.md").read_text() == page
    assert reproduce.main(words) == 0


def time_of_run(out: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted((out / "runs").glob("*/result.json"))]


def test_on_a_gpu_memory_and_cores_say_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def room(free_gigabytes: int, cores: int, **words: Any) -> int:
        monkeypatch.setattr(reproduce.os, "sched_getaffinity", lambda _: range(cores))
        free = free_gigabytes << 30
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
        return reproduce._room(torch.device(words.get("device", "cuda")), words.get("threads", 1))

    assert room(139, 16) == 32
    assert room(10, 16) == 3
    assert room(1, 16) == 1
    assert room(0, 8, device="cpu") == 8
    assert room(0, 8, device="cpu", threads=3) == 2
    assert room(0, 2, device="cpu", threads=4) == 1
