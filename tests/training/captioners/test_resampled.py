"""The paired test over seeds and images: against naive loops, SciPy, and the scorer's own draws."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.metrics import Scorer
from captioner.metrics.resampling import drawn
from training.captioners import resampled
from training.captioners.few_seeds import quantile, share_within
from training.captioners.resampled import (
    Resampled,
    Resampler,
    difference,
    estimate,
    over_seeds,
)
from training.captioners.runs import METRICS

stats = pytest.importorskip("scipy.stats")


@cache
def counts_of(images: int, samples: int) -> np.ndarray:
    return np.concatenate(list(drawn(images, samples, 0))).astype(float)


def of_images(values: np.ndarray, samples: int = 4000) -> Resampled:
    """Return what a metric that is a mean over images gives: values [images]."""
    draws = counts_of(len(values), samples) @ values
    return Resampled(
        dict.fromkeys(METRICS, float(values.mean())), dict.fromkeys(METRICS, draws / len(values))
    )


def test_seeds_are_drawn_beside_the_images_and_stretched() -> None:
    values = np.random.default_rng(5).normal(size=(3, 50))
    chosen = np.random.default_rng(0).integers(3, size=(3, 50))
    for draw in range(50):
        middle = sum(values[seed, draw] for seed in range(3)) / 3
        of_drawn = sum(values[chosen[place, draw], draw] for place in range(3)) / 3
        wanted = middle + (3 / 2) ** 0.5 * (of_drawn - middle)
        assert over_seeds(values)[draw] == pytest.approx(wanted, abs=1e-12)
    assert (over_seeds(values[:1]) == values[0]).all()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_seeds_alone_the_spread_is_the_standard_error(seeds: int) -> None:
    by_seed = np.random.default_rng(seeds).normal(size=seeds)
    values = over_seeds(np.repeat(by_seed[:, None], 200_000, axis=1))
    assert values.mean() == pytest.approx(by_seed.mean(), abs=0.01)
    assert values.std() == pytest.approx(stats.sem(by_seed), rel=0.01)


def test_of_images_alone_the_test_is_that_of_paired_means() -> None:
    generator = np.random.default_rng(1)
    first = generator.normal(size=400)
    second = first + generator.normal(0.1, 1.0, size=400)
    found = difference([of_images(first)], [of_images(second)], "CIDEr")
    wanted = stats.ttest_rel(second, first)
    assert found.mean == pytest.approx(second.mean() - first.mean())
    assert found.p_value == pytest.approx(wanted.pvalue, abs=0.02)
    low, high = wanted.confidence_interval()
    assert found.interval == pytest.approx((low, high), abs=0.01)


def test_seeds_that_disagree_widen_the_interval_and_pairs_that_agree_do_not() -> None:
    generator = np.random.default_rng(2)
    images = generator.normal(size=300)
    of_seed = np.array([0.0, 1.0, -1.0])
    plain = [of_images(images + own) for own in of_seed]
    same_gain = [of_images(images + own + 0.2) for own in of_seed]
    gains = zip(of_seed, (0.5, 0.3, -0.2), strict=True)
    other_gain = [of_images(images + own + gain) for own, gain in gains]
    agreeing = difference(plain, same_gain, "CIDEr")
    assert agreeing.verdict == "better"
    assert agreeing.interval == pytest.approx((0.2, 0.2))
    disagreeing = difference(plain, other_gain, "CIDEr")
    assert disagreeing.mean == pytest.approx(0.2)
    assert disagreeing.verdict == "not shown"
    wide = estimate(plain, "CIDEr").interval
    assert wide.high - wide.low > 2 * stats.sem(of_seed)


def test_there_is_no_gain_where_there_is_none() -> None:
    """Of 200 pairs of groups that differ by chance alone about one in twenty is significant."""
    generator = np.random.default_rng(3)
    significant = 0
    for _ in range(200):
        images = generator.normal(size=60)
        groups = [
            [of_images(images + generator.normal(0, 1, 60), 300) for _ in range(3)]
            for _ in range(2)
        ]
        significant += difference(*groups, "CIDEr").p_value < 0.05
    assert significant <= 20


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30])
def test_students_t_is_scipys(degrees: int) -> None:
    assert quantile(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees))
    for t in (0.0, 0.1, 1.0, 4.0, 50.0):
        within = 1 - 2 * stats.t.sf(t, degrees)
        assert share_within(t, degrees) == pytest.approx(within, abs=1e-12)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_seeds_alone_an_interval_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    """Groups of a few seeds, all of the same mean, whose images say the same of each."""
    generator = np.random.default_rng(seeds)
    images = generator.normal(size=20)
    outside = 0
    for _ in range(300):
        plain = [of_images(images, 200) for _ in range(seeds)]
        other = [of_images(images + generator.normal(), 200) for _ in range(seeds)]
        found = difference(plain, other, "CIDEr")
        wanted = stats.ttest_1samp(found.by_seed, 0.0)
        assert found.p_value >= wanted.pvalue - 1e-9
        assert found.interval.low <= wanted.confidence_interval().low + 1e-9
        outside += found.verdict != "not shown"
    assert outside <= 25  # 15 on average, and 25 or fewer in 99 of 100 cases


def test_runs_of_other_images_are_not_compared() -> None:
    one, other = (Resampled({}, {}, images) for images in ("one", "other"))
    with pytest.raises(DataError, match="captions of different images"):
        difference([one], [other], "CIDEr")
    with pytest.raises(DataError, match="1 runs cannot be compared with 2"):
        difference([one], [one, one], "CIDEr")


def test_draws_are_those_of_the_scorer_and_kept_beside_the_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["a dog runs", "a cat sleeps here", "two men", "the red ball rolls", "a boat"]
    references = {number: [text, f"{text} again"] for number, text in enumerate(words)}
    candidates = {number: f"a {text}" for number, text in enumerate(reversed(words))}
    captions = tmp_path / "captions.json"
    captions.write_text(
        json.dumps(
            [
                {"image_id": number, "caption": candidates[number], "references": own}
                for number, own in references.items()
            ]
        )
    )
    with Resampler(50) as resampler:
        found = resampler.resample(captions)
    with Scorer(references) as scorer:
        scores = scorer.score(candidates)
        intervals = scorer.bootstrap(scores, samples=50)
    for name in METRICS:
        assert found.found[name] == pytest.approx(scores[name])
        assert estimate([found], name).interval == pytest.approx(intervals[name])

    monkeypatch.setattr(resampled, "Scorer", None)  # not needed a second time
    again = Resampler(50).resample(captions)
    assert again.found == found.found
    assert again.images == found.images
    with pytest.raises(TypeError):
        Resampler(51).resample(captions)
