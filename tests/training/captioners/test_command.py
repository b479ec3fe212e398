"""The page of Table 3 from a hand-made folder of runs, and what its command refuses."""

import hashlib
import json
from pathlib import Path

import pytest

from captioner.decoders import DECODERS
from tests.training.captioners.hand_made import REFERENCES, write_run
from training import reproduce
from training.captioners import resampled
from training.captioners.grid import read_grid
from training.captioners.page import markdown
from training.captioners.resampled import Resampler, difference
from training.captioners.runs import METRICS, PRINTED

BAD = ["a plane", "a plane", "a plane", "a plane", "a plane"]
PART = [*REFERENCES[:2], "a plane", "a plane", "a plane"]
MOST = [*REFERENCES[:4], "a plane"]


@pytest.fixture
def words(tiny: list[str], tmp_path: Path) -> list[str]:
    """The command line of a small grid on the tiny sample."""
    dropped = {"--epochs", "--attention-size"}  # ours, and none of show_tell's
    places = [place for place, word in enumerate(tiny) if word in dropped]
    kept = [
        word for place, word in enumerate(tiny) if place not in places and place - 1 not in places
    ]
    own = ["--decoders", "show_tell", "--p", "0", "0.25", "--seeds", "3", "--epochs", "4"]
    return [*own, "--bootstrap", "200", "--out", str(tmp_path / "out"), *kept]


def test_the_page_tells_what_is_there_and_what_is_missing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_grid(words).plan
    by_name = {run.name: run for run in plan.runs}
    for name, ciders, captions in (
        ("show_tell-p0-seed0", [0.1, 0.2, 0.3, 0.4], BAD),
        ("show_tell-p0-seed1", [0.1, 0.2, 0.3, 0.4], PART),
        ("show_tell-p0.25-seed0", [0.37, 0.4, 0.5, 0.6], PART),
        ("show_tell-p0.25-seed1", [0.3, 0.37, 0.5, 0.6], MOST),
        ("show_tell-p0.25-seed2", [0.3], ()),
    ):
        write_run(plan, by_name[name], ciders, captions)
    assert reproduce.main(["table3", "--report", *words]) == 0
    error = capsys.readouterr().err
    assert "missing: 2 of 6 runs: show_tell-p0-seed2, show_tell-p0.25-seed2" in error
    assert "go on with: python training/reproduce.py table3 --decoders show_tell" in error
    assert "--report" not in error

    out = tmp_path / "out"
    figures = json.loads((out / "table3.json").read_text())
    plain, detached = figures["findings"]
    assert (plain["p"], plain["seeds"], plain["differences"]) == (0.0, [0, 1], {})
    runs = {
        name: Resampler(200).resample(plan.captions(by_name[name]))
        for name in by_name
        if plan.is_complete(by_name[name])
    }
    for metric in METRICS:
        values = [runs[f"show_tell-p0.25-seed{seed}"].found[metric] for seed in (0, 1)]
        assert detached["scores"][metric]["mean"] == pytest.approx(sum(values) / 2)
    cider = detached["differences"]["CIDEr"]
    wanted = difference(
        [runs[f"show_tell-p0-seed{seed}"] for seed in (0, 1)],
        [runs[f"show_tell-p0.25-seed{seed}"] for seed in (0, 1)],
        "CIDEr",
    )
    assert cider["mean"] == pytest.approx(wanted.mean)
    assert cider["interval"] == pytest.approx([*wanted.interval])
    assert detached["compared_with_p0_on_seeds"] == [0, 1]
    # 90 % of 0.4, over the one epoch that all runs of the decoder have
    assert detached["convergence"]["goal"] == pytest.approx(0.36)
    assert detached["convergence"]["epochs_to_reach"] == [1.0, 2.0, None]
    assert detached["convergence"]["mean_cider"] == pytest.approx([0.37, 0.3, 0.3])
    assert plain["convergence"]["epochs_to_reach"] == [4.0, 4.0]
    assert plain["convergence"]["mean_cider"] == pytest.approx([0.1, 0.1])
    assert plain["convergence"]["epochs"] == detached["convergence"]["epochs"] == 1.0
    assert plain["cell_shares"]["cell_share/5"] == [[1, 0.125], [2, 0.25], [3, 0.375], [4, 0.5]]

    page = (out / "table3.md").read_text()
    assert cider["interval"][0] < 0 < cider["interval"][1]  # five images say little
    assert "Of 1 comparison with p = 0, h-detach raises CIDEr in 0, lowers it in 0, and" in page
    assert "**show_tell, p = 0.25: no difference that these runs show.** CIDEr +" in page
    assert "another data set than the paper's COCO" in page
    for row in PRINTED["show_tell"]:
        assert row.label in page
    assert "| show_tell-p0-seed2 | 0 of 4 |" in page
    assert "not run |" in page
    assert "4 of 6 runs are complete" in page
    for picture in ("table3.png", "table3_training.png"):
        assert (out / picture).stat().st_size > 1000
        assert f"({picture})" in page
    assert "other seeds" not in page
    assert reproduce.main(["table3", "--report", *words, "--seeds", "1"]) == 0
    page = (out / "table3.md").read_text()
    assert "no difference that this seed shows" in page
    assert "not of other seeds" in page


def test_a_captioner_is_trained_scored_and_told(words: list[str], tmp_path: Path) -> None:
    small = ["--p", "0.25", "--seeds", "1", "--epochs", "1", "--clipping", "off"]
    assert reproduce.main(["table3", *words, *small, "--gradient-lags", "1", "3"]) == 0
    figures = json.loads((tmp_path / "out" / "table3.json").read_text())
    (finding,) = figures["findings"]
    assert (finding["p"], finding["is_clipped"], finding["seeds"]) == (0.25, False, [0])
    assert set(finding["scores"]) == set(METRICS)
    assert set(finding["cell_shares"]) == {
        f"{measure}/{lag}" for measure in ("cell_share", "cell_share_detached") for lag in (1, 3)
    }
    (run,) = figures["runs"].values()
    assert run["epochs"] == 1.0
    folder = tmp_path / "out" / "runs" / "show_tell-p0.25-unclipped-seed0"
    trained = json.loads((folder / "config.json").read_text())["config"]
    assert (trained["clip_norm"], trained["clip_value"], trained["p"]) == (0.0, 0.0, 0.25)
    scores = json.loads((folder / "scores_test_beam3.json").read_text())
    assert scores["signature"]["beam_size"] == 3
    assert finding["scores"]["CIDEr"]["mean"] == pytest.approx(scores["CIDEr"])


def test_a_folder_without_any_run_makes_a_page_too(words: list[str], tmp_path: Path) -> None:
    assert reproduce.main(["table3", "--report", *words]) == 0
    page = (tmp_path / "out" / "table3.md").read_text()
    assert "Nothing is compared yet." in page
    assert "0 of 6 runs are complete" in page


def test_by_default_every_captioner_is_trained_where_there_is_a_cell_with_each_p(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(sample), "--out", str(tmp_path / "out"), "--seeds", "1"]
    expected = {(name, p) for name in DECODERS for p in (0.0, 0.1, 0.25, 0.4, 0.5)}
    of_lstm = {(run.decoder, run.p) for run in read_grid([*words, "--cell", "lstm"]).runs}
    assert of_lstm == expected
    printed = {(name, p) for name, p in expected if name != "neuraltalk" or p == 0}
    assert {(run.decoder, run.p) for run in read_grid(words).runs} == printed
    assert reproduce.main(["table3", *words, "--report"]) == 0
    page = (tmp_path / "out" / "table3.md").read_text()
    assert "\nneuraltalk: a network without a cell state has p = 0 alone.\n" in page

    capsys.readouterr()
    alone = [*words, "--decoders", "neuraltalk", "--p", "0.25"]
    assert reproduce.main(["table3", *alone]) == 2
    assert capsys.readouterr().err == (
        "reproduce.py: neuraltalk has no cell state, so nothing can be detached and --p is 0 "
        "alone; add 0 to --p, or other --decoders\n"
    )


def test_runs_of_other_data_are_not_mixed(
    words: list[str], sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = read_grid(words)
    write_run(grid.plan, grid.runs[0], [0.1])
    last = grid.plan.folder(grid.runs[0]) / "last"
    last.mkdir()
    for digest, status in ((hashlib.sha256(sample.read_bytes()).hexdigest(), 0), ("0" * 64, 2)):
        state = {"step": 9, "data": {"sha256": digest, "training_images": 3}}
        (last / "run_state.json").write_text(json.dumps(state))
        assert reproduce.main(["table3", "--report", *words]) == status
    error = capsys.readouterr().err
    assert f"{last.parent} was trained on other data than {sample}; give the same" in error


def test_files_of_a_run_that_are_damaged_or_gone_are_made_again_or_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_grid(words).plan
    for run in plan.runs[:2]:
        write_run(plan, run, [0.1, 0.2, 0.3, 0.4], PART)
    report = ["table3", "--report", *words]
    assert reproduce.main(report) == 0
    page = (tmp_path / "out" / "table3.md").read_text()
    kept = plan.captions(plan.runs[0]).with_suffix(".npz")
    whole = kept.read_bytes()
    for damaged in (b"no archive", b"", whole[:100]):
        kept.write_bytes(damaged)
        assert resampled._kept(kept, []) is None
    assert reproduce.main(report) == 0
    assert (tmp_path / "out" / "table3.md").read_text() == page
    assert kept.read_bytes() == whole

    plan.captions(plan.runs[0]).unlink()
    capsys.readouterr()
    assert reproduce.main(report) == 0
    assert f"missing: 5 of 6 runs: {plan.runs[0].name}" in capsys.readouterr().err

    metrics = plan.folder(plan.runs[1]) / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b'"kind"', b'"ki', 1))
    assert reproduce.main(report) == 2
    assert f"{metrics} has a damaged line; restore it" in capsys.readouterr().err


def test_the_published_runs_without_clipping_are_those_with_it() -> None:
    """docs/benchmarks.md says so, and that no gradient reaches the recipe's bound."""
    results = Path(__file__).resolve().parents[3] / "docs" / "results"
    clipped, unclipped = (
        json.loads((results / f"table3_{name}.json").read_text())["runs"]
        for name in ("decoders", "unclipped")
    )
    assert len(unclipped) == 4
    for name, run in unclipped.items():
        same = clipped[name.replace("-unclipped", "")]
        for figures in ("curve", "scores", "cell_shares"):
            assert run[figures] == same[figures], (name, figures)


def test_coco_is_not_called_another_data_set() -> None:
    def said(data: str) -> str:
        return markdown(
            [],
            {},
            data=data,
            asked_epochs=1,
            beam_size=3,
            split="test",
            failures={},
            missing=(),
            without_cell=(),
            origin={},
            pictures=(),
        )

    assert "another data set" not in said("coco")
    assert "Encoder, sizes and epochs are those of the command" in said("coco")
    assert "flickr8k is another data set than the paper's COCO" in said("flickr8k")


def test_runs_of_other_settings_are_not_mixed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_grid(words).plan
    write_run(plan, plan.runs[0], [0.1])
    config = plan.folder(plan.runs[0]) / "config.json"
    trained = {"lr": 7e-4, "p": 0.0, "clip_norm": 5.0, "gradient_lags": [1, 5, 10], "epochs": 4}
    config.write_text(json.dumps({"format": 1, "config": trained, "origins": []}))
    assert reproduce.main(["table3", "--report", *words, "--lr", "7e-4", "--workers", "2"]) == 0
    capsys.readouterr()
    for more, told in (
        (["--lr", "0.1"], "--lr 0.0007, not 0.1"),
        (["--lr", "7e-4", "--epochs", "5"], "--epochs 4, not 5"),
    ):
        assert reproduce.main(["table3", "--report", *words, *more]) == 2
        error = capsys.readouterr().err
        assert f"was trained with {told}; give the same options as before" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--p", "1.5"], "--p is 1.5; a probability lies between 0 and 1"),
        (["--decoders", "magic"], "argument --decoders: invalid choice: 'magic'"),
        (["--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["--clipping", "maybe"], "argument --clipping: invalid choice: 'maybe'"),
        (["--bootstrap", "1"], "--bootstrap is 1; draw at least 2 times"),
        (["--report", "--background"], "--report trains nothing, so it needs no --background"),
        (["--hiden-size", "3"], "unrecognized arguments: --hiden-size 3"),
        (["--decoder", "show_tell"], "--decoder is not for all runs of table3"),
        (["--cell", "lstm"], "--cell is an option of none of show_tell; leave it out"),
        (["--lr", "-1"], "--lr is -1.0; it must be above 0"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str],
    more: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert reproduce.main(["table3", *words, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("reproduce.py: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_are_to_be_named_and_a_probability_counts_once(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = words.index("--data")
    assert reproduce.main(["table3", *words[:place], *words[place + 2 :]]) == 2
    assert "--data is missing; give a data set" in capsys.readouterr().err
    runs = read_grid([*words, "--p", "0.25", "0.25000001", "0.3"]).runs
    assert {run.p for run in runs} == {0.25, 0.3}
    assert len({run.name for run in runs}) == len(runs) == 6


def test_the_exhibit_stands_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["--seeds", "1", "table3"]) == 2
    assert "table3 stands first" in capsys.readouterr().err
