import json
import math
from pathlib import Path
from typing import Any

import pytest

from captioner.errors import ToolError
from captioner.metrics import Scorer
from captioner.metrics.spice import score_spice

# Reads what SPICE is given and writes what it would: the score is the number of references.
HONEST_SPICE = """
import json
given = json.load(open(next(a for a in sys.argv if a.endswith("captions.json"))))
out = open(sys.argv[sys.argv.index("-out") + 1], "w")
f = lambda row: len(row["refs"]) / 10 if row["test"] else None
json.dump([{"image_id": r["image_id"], "scores": {"All": {"f": f(r)}}} for r in given][::-1], out)
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like pycocoevalcap's once the models have been fetched."""
    folder = tmp_path / "spice" / "lib"
    folder.mkdir(parents=True)
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / name).touch()
    jar = folder.parent / "spice-1.0.jar"
    monkeypatch.setattr("captioner.metrics.spice.find_jar", lambda _: jar)
    return folder


def test_missing_models_are_named_with_the_command_that_fetches_them(models: Path) -> None:
    (models / "stanford-corenlp-3.6.0-models.jar").unlink()
    with pytest.raises(ToolError, match=r"3\.6\.0-models\.jar in .*get_stanford_models") as caught:
        Scorer({1: ["a dog"]}, spice=True)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("models")
def test_scores_are_put_back_in_the_order_of_the_captions(fake_java: Any) -> None:
    java = fake_java(HONEST_SPICE)
    references = [["a"] * 3, ["b"], ["c"] * 5]
    assert score_spice(references, ["x", "y", "z"], java=java) == (
        pytest.approx(0.3),
        [0.3, 0.1, 0.5],
    )
    overall, each = score_spice(references, ["x", "", "z"], java=java)
    assert math.isnan(overall)
    assert [math.isnan(one) for one in each] == [False, True, False]


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit('no lmdb here')", "SPICE ended with status 1: no lmdb here"),
        ("pass", "SPICE left no readable scores"),
        (HONEST_SPICE.replace("f(r)", "[]"), "SPICE left no readable scores"),
    ],
)
def test_a_failure_is_one_line(fake_java: Any, script: str, message: str) -> None:
    with pytest.raises(ToolError, match=message) as caught:
        score_spice([["a"]], ["b"], java=fake_java(script))
    assert "\n" not in str(caught.value)


def test_the_table_and_json_show_it_where_it_was_wanted(
    fake_java: Any, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models.is_dir()
    monkeypatch.setattr("captioner.metrics.meteor.find_jar", lambda _: models / "meteor.jar")
    java = fake_java(
        f"if '-cache' in sys.argv:\n    exec({HONEST_SPICE!r})\nelse:\n"
        "    for line in sys.stdin: say(line)\n"
    )
    with Scorer({1: ["a"], 2: ["b"]}, spice=True, tokenised=True, java=java) as scorer:
        scores = scorer.score({1: "a", 2: ""})
    assert scores.per_image[1]["SPICE"] == 0.1
    assert scores.to_json()["SPICE"] is None
    assert json.dumps(scores.to_json(per_image=True), allow_nan=False)
