"""What the pages say of runs that are made up: means, choices, and how far each run went."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from training.benchmarks import figures, tables
from training.benchmarks.figures import draw
from training.benchmarks.reproductions import REPRODUCTIONS, Run, runs_of
from training.benchmarks.run_results import RunResult, read_figures, read_result
from training.benchmarks.tables import markdown, summarise
from training.captioners.few_seeds import seed_interval

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"


def test_the_documents_intervals_of_copying_are_those_of_the_published_runs() -> None:
    text = (RESULTS.parent / "benchmarks.md").read_text(encoding="utf-8")
    section = text.partition("**Copying at T = 60 with 5 digits")[2].partition("\n**")[0]
    said = " ".join(section.split())
    trained, transferred = (
        json.loads((RESULTS / f"{name}_small.json").read_text())["runs"]
        for name in ("figure2", "table1")
    )

    def differences(method: str, of_run: Callable[[str], float]) -> list[float]:
        names = ("copying60-lstm{}-lr0.001-seed" + str(seed) for seed in range(5))
        return [of_run(name.format(method)) - of_run(name.format("")) for name in names]

    for of_run in (
        lambda name: trained[name]["validation"],
        lambda name: transferred[name]["transfer"]["120"],
    ):
        for method in ("-p0.25", "-p0.5"):
            found = differences(method, of_run)
            low, high = seed_interval(found)
            assert f"({low:+.1f} to {high:+.1f}" in said
            assert f"{abs(sum(found) / 5):.1f}" in said


def page(name: str, results: dict[Run, RunResult], failures: dict[str, str] | None = None) -> str:
    reproduction = REPRODUCTIONS[name]
    return markdown(
        reproduction,
        summarise(reproduction, results),
        results,
        asked=dict.fromkeys(results, 60),
        failures={run: (failures or {}).get(run.name, "") for run in results},
        origin={"command": "python x.py"},
        picture="x.png",
    )


def find(name: str, results: dict[Run, RunResult], label: str, column: str) -> Any:
    (found,) = [
        one
        for one in summarise(REPRODUCTIONS[name], results)
        if (one.row.label, one.column) == (label, column)
    ]
    return found


def test_the_second_table_takes_the_best_rate_and_the_run_that_validated_best() -> None:
    results = {run: RunResult() for run in runs_of(REPRODUCTIONS["table2"], seeds=2)}
    made_up = {  # rate and seed -> validation, test
        (1e-3, 0): (97.0, 96.0),
        (1e-3, 1): (98.9, 97.0),  # the best single run
        (5e-4, 0): (98.5, 98.0),
        (5e-4, 1): (98.7, 98.4),  # with the one above the best mean
        (1e-4, 0): (90.0, 99.9),  # tests well, which must not count
    }
    for run in results:
        if (run.row.label, run.setting.title) == ("uRNN", "permuted MNIST"):
            results[run] = RunResult(epochs=0.4)
        if (run.row.label, run.setting.title) == ("h-detach 0.25", "pixel MNIST"):
            validation, test = made_up.get((run.lr, run.seed), (None, None))
            results[run] = RunResult(epochs=60, validation=validation, test=test)
    found = find("table2", results, "h-detach 0.25", "pixel MNIST")
    assert (found.paper, found.lr, found.values, found.best) == (98.5, 5e-4, (98.0, 98.4), 97.0)
    assert found.mean == pytest.approx(98.2)
    assert found.spread == pytest.approx(0.2 * 2**0.5)
    text = page("table2", results)
    assert "| h-detach 0.25 | pixel MNIST | 98.50 | 98.20 | 0.28 | 97.00 of 5 | 0.0005 |" in text
    assert "| IRNN | permuted MNIST | 82.00 |  |  | not run |  |" in text
    assert "| uRNN | permuted MNIST | 91.40 |  |  | cut short |  |" in text
    assert "| zoneout | pixel MNIST |  |" in text  # the paper gives none


def test_of_perplexities_the_lowest_is_the_best() -> None:
    results = {}
    for run in runs_of(REPRODUCTIONS["language"], seeds=3):
        worth = 100.0 + run.seed + (5.0 if dict(run.row.options)["p"] else 0.0)
        results[run] = RunResult(epochs=60, validation=worth, test=worth - 1)
    found = find("language", results, "vanilla LSTM", "language modelling")
    assert (found.values, found.best) == ((99.0, 100.0, 101.0), 99.0)
    assert "Perplexity; less is better." in page("language", results)


def test_the_first_table_stands_beside_the_papers_numbers() -> None:
    results = {
        run: RunResult(
            epochs=60,
            validation=90.0 + run.seed,
            transfer={delay: 10.0 * run.seed + delay / 100 for delay in (200, 5000)},
        )
        for run in runs_of(REPRODUCTIONS["table1"], seeds=3)
    }
    found = find("table1", results, "h-detach 0.25", "T = 5000")
    assert (found.paper, found.values, found.best) == (42.35, (50.0, 60.0, 70.0), 70.0)
    assert find("table1", results, "vanilla LSTM", "T = 400").values == ()


def test_curves_are_compared_at_the_last_epoch_that_all_reached() -> None:
    results = {}
    for run in runs_of(REPRODUCTIONS["figure2"], seeds=1):
        length = 3 if run.row.label == "vanilla LSTM" else 5
        curve = tuple((float(e), 20.0 * e if length == 5 else 10.0 * e) for e in range(1, length))
        results[run] = RunResult(epochs=length - 1, curve=curve, validation=curve[-1][1])
    found = find("figure2", results, "h-detach 0.5", "copying, T = 300, lr 0.001")
    assert (found.common_epoch, found.at_common_epoch, found.best) == (2, (40.0,), 80.0)
    assert found.epochs_to_reach == (None,)
    fast = next(run for run in results if run.row.label == "h-detach 0.5")
    results[fast] = RunResult(epochs=2, curve=((1.0, 50.0), (2.0, 95.0)), validation=95.0)
    found = find("figure2", results, "h-detach 0.5", "copying, T = 100, lr 0.001")
    assert found.epochs_to_reach == (2,)


def test_the_page_says_how_far_each_run_went_and_what_broke() -> None:
    runs = list(runs_of(REPRODUCTIONS["figure4"], seeds=1))
    results = {run: RunResult() for run in runs}
    results[runs[0]] = RunResult(
        epochs=60, curve=((60.0, 91.0),), validation=91.0, commits=("abc1234", "def5678-dirty")
    )
    results[runs[1]] = RunResult(epochs=2.5, curve=((2.0, 30.0),), validation=30.0)
    text = page("figure4", results, {runs[1].name: "the loss is nan | lower --lr"})
    assert "1 of 4 runs came to the end of what was asked for, 2 were not run." in text
    assert "That is fewer epochs than the paper's, and no run shows all that" in text
    assert f"| {runs[0].name} | 60 of 60 (200) | 91.00 |  | abc1234, def5678-dirty |  |" in text
    assert f"| {runs[1].name} | 2.5 of 60 (200) | 30.00 |  |  | the loss is nan \\| lower" in text
    assert f"| {runs[2].name} | 0 of 60 (200) |  |  |  | not run |" in text


@pytest.mark.parametrize("name", ["figure4", "table1", "table2"])  # one of each kind
def test_every_picture_can_be_drawn_of_nothing_and_of_something(name: str, tmp_path: Path) -> None:
    reproduction = REPRODUCTIONS[name]
    results = {run: RunResult() for run in runs_of(reproduction, seeds=1)}
    draw(reproduction, summarise(reproduction, results), results, tmp_path / "nothing.png")
    some = RunResult(
        epochs=2.0,
        curve=((1.0, 20.0), (2.0, 30.0)),
        validation=30.0,
        test=29.0,
        transfer={200: 20.0},
    )
    results[next(iter(results))] = some
    draw(reproduction, summarise(reproduction, results), results, tmp_path / "something.png")
    nothing, something = (tmp_path / f"{which}.png" for which in ("nothing", "something"))
    assert nothing.read_bytes() != something.read_bytes()


@pytest.mark.parametrize(("name", "panels_or_rows"), [("figure2", 2), ("table2", 16)])
def test_a_picture_says_what_was_not_run(name: str, panels_or_rows: int) -> None:
    reproduction = REPRODUCTIONS[name]

    def not_run(results: dict[Run, RunResult]) -> int:
        figure = (
            figures._beside_the_paper(reproduction, summarise(reproduction, results))
            if reproduction.is_table
            else figures._curves(reproduction, results)
        )
        texts = [text.get_text() for axes in figure.axes for text in axes.texts]
        return texts.count("not run")

    results = {run: RunResult() for run in runs_of(reproduction, seeds=1)}
    assert not_run(results) == panels_or_rows
    results[next(iter(results))] = RunResult(
        epochs=1, curve=((1.0, 20.0),), validation=20.0, test=20.0
    )
    assert not_run(results) == panels_or_rows - 1


def test_a_size_of_our_own_is_not_called_the_papers() -> None:
    results = {run: RunResult(epochs=5.0) for run in runs_of(REPRODUCTIONS["ablations"], seeds=1)}
    text = page("ablations", results)
    assert "| copying30-lstm-lr0.003-seed0 | 5 of 60 (-) |" in text
    for name, is_said in (("ablations", False), ("figure2", True)):
        shorter = {run: RunResult(epochs=5.0) for run in runs_of(REPRODUCTIONS[name], seeds=1)}
        told = tables._how_far(shorter, dict.fromkeys(shorter, 5))
        assert ("fewer epochs than the paper" in told) == is_said


def test_the_log_of_a_run_that_still_trains_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    assert read_result(tmp_path / "none") == RunResult()
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 5, "epoch": 0.5, "loss": 2.0, "seconds": 1.0}\n'
        '{"kind": "validation", "step": 10, "epoch": 1.0, "accuracy": 40.0, "seconds": 3.0}\n'
        '{"kind": "test", "step": 10, "accuracy": 1.0}\n'
        '{"kind": "train", "step": 15, "epo'
    )
    result = read_result(tmp_path)
    assert (result.epochs, result.seconds, result.curve) == (1.0, 3.0, ((1.0, 40.0),))
    assert not result.is_complete(1, ())
    (tmp_path / "result.json").write_text(
        '{"epochs": 1.0, "seconds": 3.5, "tests": {"test": {"accuracy": 39.0}}}'
    )
    result = read_result(tmp_path)
    assert (result.test, result.seconds) == (39.0, 3.5)
    assert result.is_complete(1, ())
    assert not result.is_complete(2, ())
    assert not result.is_complete(1, (200,))


def test_figures_of_several_pages_are_put_together(tmp_path: Path) -> None:
    short = RunResult(epochs=1.0, curve=((1.0, 40.0),), validation=40.0)
    long = RunResult(epochs=2.0, curve=((1.0, 40.0), (2.0, 50.0)), test=49.0, commits=("abc",))
    transfer = replace(long, test=None, transfer={20: 30.0})
    for name, runs in (
        ("one", {"a": short, "b": long}),
        ("two", {"a": long, "b": short}),
        ("three", {"a": transfer, "c": short}),
    ):
        stored = {"runs": {key: {"failure": "", **asdict(one)} for key, one in runs.items()}}
        (tmp_path / name).write_text(json.dumps(stored))
    both = replace(long, transfer={20: 30.0})
    found = read_figures([tmp_path / name for name in ("one", "two", "three")])
    assert found == {"a": both, "b": long, "c": short}
    assert read_figures([]) == {}


PUBLISHED = sorted(name for name in REPRODUCTIONS if (RESULTS / f"{name}.json").is_file())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_page_follows_from_its_figures(name: str) -> None:
    stored = json.loads((RESULTS / f"{name}.json").read_text())
    by_name = {run.name: run for run in runs_of(REPRODUCTIONS[name], seeds=9)}
    results, asked, failures = {}, {}, {}
    for run_name, one in stored["runs"].items():
        run = by_name[run_name]
        asked[run], failures[run] = one["epochs_asked"], one["failure"]
        results[run] = RunResult.from_json(one)
    reproduction = REPRODUCTIONS[name]
    summaries = summarise(reproduction, results)
    page = markdown(
        reproduction,
        summaries,
        results,
        asked=asked,
        failures=failures,
        origin=stored["origin"],
        picture=f"{name}.png",
    )
    assert page == (RESULTS / f"{name}.md").read_text()
    as_stored = json.loads(json.dumps([summary.to_json() for summary in summaries]))
    assert as_stored == stored["findings"]
