import random
from collections.abc import Sequence

import pytest
from pycocoevalcap.bleu.bleu import Bleu as PeerBleu
from pycocoevalcap.cider.cider import Cider as PeerCider
from pycocoevalcap.rouge.rouge import Rouge as PeerRouge

from captioner.metrics.ngram_metrics import Bleu, Cider, Rouge

TINY: list[tuple[list[str], str]] = [
    (["a dog runs on the grass", "the dog runs"], "a dog runs on grass"),
    (["two cats"], ""),
    ([""], "a dog"),
    (["a a a a a", "a b"], "a a a"),
    (["one", "two", "three", "four"], "five six seven eight nine"),
    (["the cat sat on the mat"], "the cat sat on the mat"),
]


def peers(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> tuple:
    known = {i: list(own) for i, own in enumerate(references)}
    given = {i: [candidate] for i, candidate in enumerate(candidates)}
    return (
        PeerBleu(4).compute_score(known, given, verbose=0),
        PeerRouge().compute_score(known, given),
        PeerCider().compute_score(known, given),
    )


def assert_equal_to_peers(references: Sequence[Sequence[str]], *rounds: Sequence[str]) -> None:
    bleu, rouge, cider = Bleu(references), Rouge(references), Cider(references)
    for candidates in rounds:
        (bleus, bleus_each), (rouges, rouges_each), (ciders, ciders_each) = peers(
            references, candidates
        )
        overall, each, *_ = bleu.score(candidates)
        assert overall == bleus
        assert each == bleus_each
        assert rouge.score(candidates) == (rouges, list(rouges_each))
        score, own = cider.score(candidates)
        assert score == pytest.approx(ciders, rel=1e-12, abs=1e-12)
        assert own == pytest.approx(list(ciders_each), rel=1e-12, abs=1e-12)


def test_scores_equal_pycocoevalcaps_at_the_first_and_at_later_calls(
    references: dict[str, list[str]], candidates: dict[str, str]
) -> None:
    keys = list(references)[:300]
    good = [candidates[key] for key in keys]
    shuffled = random.Random(0).sample(good, len(good))
    assert_equal_to_peers([references[key] for key in keys], good, shuffled, good)


def test_scores_equal_pycocoevalcaps_on_odd_captions() -> None:
    references = [own for own, _ in TINY]
    good = [candidate for _, candidate in TINY]
    assert_equal_to_peers(references, good, [""] * len(good), good[::-1])


def test_one_image_alone_scores_as_pycocoevalcap_says() -> None:
    assert_equal_to_peers([TINY[0][0]], [TINY[0][1]])


def test_references_without_any_word_are_worth_nothing() -> None:
    assert Cider([["", ""], [""]]).score(["a dog", ""]) == (0.0, [0.0, 0.0])


def test_bleu_counts_are_those_that_pycocoevalcap_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    references = [own for own, _ in TINY]
    good = [candidate for _, candidate in TINY]
    PeerBleu(4).compute_score(
        {i: list(own) for i, own in enumerate(references)},
        {i: [candidate] for i, candidate in enumerate(good)},
    )
    printed = capsys.readouterr().out
    _, _, counts, _ = Bleu(references).score(good)
    assert capsys.readouterr().out == ""
    for name in ("testlen", "reflen", "guess", "correct"):
        value = getattr(counts, name)
        assert f"'{name}': {list(value) if isinstance(value, tuple) else value}" in printed
