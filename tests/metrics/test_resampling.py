"""Bootstrap: intervals and p-values equal those of a naive loop over the same draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.errors import DataError, OptionError
from captioner.metrics import Scorer, Scores, read_pairs
from captioner.metrics.meteor import MeteorProcess
from captioner.metrics.ngram_metrics import Bleu, Rouge
from captioner.metrics.resampling import Statistics, bootstrap, compare, drawn

IMAGES = 30


@pytest.fixture(scope="module")
def texts(fakecap: Path) -> tuple[list[list[str]], list[str], list[str]]:
    """References, captions, and worse ones: for every third image those of another."""
    references, candidates = read_pairs(fakecap / "pairs.json")
    keys = list(references)[:IMAGES]
    captions = [candidates[key] for key in keys]
    worse = [captions[n - 1] if n % 3 == 0 else one for n, one in enumerate(captions)]
    return [references[key] for key in keys], captions, worse


@pytest.fixture(scope="module")
def scored(
    texts: tuple[list[list[str]], list[str], list[str]], meteor: MeteorProcess
) -> tuple[Scorer, Scores, Scores]:
    references, *candidates = texts
    scorer = Scorer(dict(enumerate(references)), tokenised=True)
    scorer.meteor = meteor
    return scorer, *(scorer.score(dict(enumerate(own))) for own in candidates)


def naive(
    texts: tuple[list[list[str]], list[str], list[str]],
    scores: Scores,
    which: int,
    places: list[int],
    meteor: MeteorProcess,
) -> dict[str, float]:
    """Return the scores of some images, scored as a set of their own, but for CIDEr's idf."""
    references = [texts[0][place] for place in places]
    captions = [texts[which][place] for place in places]
    meteor.begin(references, captions)
    bleu = Bleu(references).score(captions)[0]
    return {
        **{f"Bleu_{n}": bleu[n - 1] for n in range(1, 5)},
        "METEOR": meteor.finish()[0],
        "ROUGE_L": Rouge(references).score(captions)[0],
        "CIDEr": float(np.mean([scores.per_image[place]["CIDEr"] for place in places])),
    }


def test_intervals_are_those_of_a_loop_that_scores_every_draw_anew(texts, scored, meteor):
    scorer, scores, _ = scored
    samples = 8
    (counts,) = drawn(IMAGES, samples, 5)
    assert counts.sum(axis=1).tolist() == [IMAGES] * samples
    found = scorer.bootstrap(scores, samples=samples, seed=5)
    loop = [
        naive(texts, scores, 1, np.repeat(np.arange(IMAGES), one).tolist(), meteor)
        for one in counts
    ]
    assert found.keys() == scores.overall.keys()
    for name, interval in found.items():
        values = [one[name] for one in loop]
        assert len(set(values)) > 1
        assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-12)


def test_the_whole_set_drawn_once_has_the_scores_of_the_whole_set(scored):
    scorer, scores, _ = scored
    whole = scores.statistics.figures(np.ones((1, IMAGES)), scorer.meteor.scores_of_sums)
    for name, score in scores.overall.items():
        assert whole[name][0] == pytest.approx(score, abs=1e-12)


def test_a_comparison_is_that_of_a_loop_over_the_same_draws(texts, scored, meteor):
    scorer, good, worse = scored
    samples = 8
    (counts,) = drawn(IMAGES, samples, 0)
    found = scorer.compare(worse, good, samples=samples, seed=0)
    loop: list[dict[str, float]] = []
    for one in counts:
        places = np.repeat(np.arange(IMAGES), one).tolist()
        first, second = (
            naive(texts, scores, which, places, meteor) for which, scores in ((2, worse), (1, good))
        )
        loop.append({name: second[name] - first[name] for name in first})
    for name, one in found.items():
        assert (one.first, one.second) == pytest.approx((worse[name], good[name]))
        differences = [draw[name] for draw in loop]
        expected = np.percentile(differences, [2.5, 97.5])
        assert one.difference == pytest.approx(expected, abs=1e-12)
        delta = good[name] - worse[name]
        extreme = sum(abs(draw - delta) >= abs(delta) for draw in differences)
        assert one.p_value == (1 + extreme) / (1 + samples)


def test_captions_that_are_better_are_told_from_chance_and_the_same_ones_are_not(scored):
    scorer, good, worse = scored
    found = scorer.compare(worse, good, samples=500, seed=0)
    assert all(one.p_value < 0.05 and one.second > one.first for one in found.values())
    assert all(0 < one.difference.low < one.difference.high for one in found.values())
    back = scorer.compare(good, worse, samples=500, seed=0)
    assert {name: one.p_value for name, one in back.items()} == {
        name: one.p_value for name, one in found.items()
    }
    same = scorer.compare(good, good, samples=50, seed=0)
    assert {one.p_value for one in same.values()} == {1.0}
    assert {tuple(one.difference) for one in same.values()} == {(0.0, 0.0)}


def sums(values: np.ndarray) -> list[float]:
    return [float(one.mean()) for one in values]


def statistics(images: int, generator: Any) -> Statistics:
    ones = np.ones((images, 10))
    return Statistics(ones, np.ones((images, 23)), {"CIDEr": generator.normal(1, 0.5, images)})


def test_an_interval_holds_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        interval = bootstrap(statistics(50, generator), sums, samples=100, seed=seed)["CIDEr"]
        held += interval.low <= 1 <= interval.high
    assert 85 <= held < 100  # 95 expected


def test_p_values_of_no_difference_are_spread_evenly():
    generator = np.random.default_rng(1)
    found = [
        compare(statistics(50, generator), statistics(50, generator), sums, samples=200, seed=seed)[
            "CIDEr"
        ].p_value
        for seed in range(200)
    ]
    assert 5 <= sum(p < 0.1 for p in found) <= 35  # 20 expected
    assert 75 <= sum(p < 0.5 for p in found) <= 125


def test_draws_depend_on_the_seed_only_and_may_be_made_in_parts(monkeypatch):
    whole = np.concatenate(list(drawn(7, 20, 3)))
    assert (whole == np.concatenate(list(drawn(7, 20, 3)))).all()
    assert (whole != np.concatenate(list(drawn(7, 20, 4)))).any()
    monkeypatch.setattr("captioner.metrics.resampling._IMAGES_AT_ONCE", 21)
    parts = list(drawn(7, 20, 3))
    assert [len(part) for part in parts] == [3] * 6 + [2]
    assert (np.concatenate(parts) == whole).all()


def test_what_cannot_be_drawn_or_compared_is_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(OptionError, match="--bootstrap is 1; draw at least 2 times"):
        bootstrap(statistics(5, generator), sums, samples=1, seed=0)
    with pytest.raises(OptionError, match="--seed is -1; it cannot be negative"):
        bootstrap(statistics(5, generator), sums, samples=2, seed=-1)
    with pytest.raises(DataError, match="5 images cannot be compared with 6"):
        compare(statistics(5, generator), statistics(6, generator), sums, samples=2, seed=0)
